"""CLIP as transformers has it: images and texts in one space (Radford et al., arXiv 2103.00020).

Its weights are the folder of a ``CLIPModel``: config.json, model.safetensors, preprocessor_config.json and the files of
its tokenizer. What is read of it is pinned as a whole, for a tokenizer or a crop changes the numbers as weights do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow import artifacts
from perflow.core.chunks import chunked
from perflow.errors import PerflowError
from perflow.metrics.looking import Looks, Seen, expect, placed

_NEEDED = ("config.json", "preprocessor_config.json")
_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
_FILE = "file:"
"""Before the name of a tensor that is a file's bytes."""
_CHUNK = 16
_BUFFERS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""What older checkpoints hold beside weights: 0, 1, 2, …"""


class Clip(Looks):
    """A CLIP of any size, in fp32."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

        self._state = dict(state)
        weights = {name: tensor for name, tensor in state.items() if not name.startswith(_FILE)}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for file in state.keys() - weights.keys():
                (folder / file.removeprefix(_FILE)).write_bytes(state[file].numpy().tobytes())
            _check(folder)
            try:
                config = CLIPConfig.from_pretrained(folder, local_files_only=True)
                self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                self._images = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
                with torch.random.fork_rng(devices=[]):
                    self._model = CLIPModel(config)
                found = self._model.load_state_dict({k: v.float() for k, v in weights.items()}, strict=False)
            except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
                raise PerflowError(f"not a CLIPModel ({str(error).strip().splitlines()[-1].strip()})") from None
        strange = [name for name in found.unexpected_keys if name not in _BUFFERS]
        if absent := [*found.missing_keys, *strange]:
            problem = "an unknown tensor" if absent[0] in strange else "no tensor"
            raise PerflowError(f"not a CLIPModel: {problem} '{absent[0]}'")
        self._length = config.text_config.max_position_embeddings
        if len(self._tokenizer) > config.text_config.vocab_size:
            words = f"{len(self._tokenizer)} words, its model {config.text_config.vocab_size}"
            raise PerflowError(f"not a CLIPModel: its tokenizer knows {words}")
        self._model.eval().requires_grad_(False)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Pixel values float32 [3, h, w], as the processor makes them."""
        expect("CLIP", image, "H", "W", 3)
        wide = torch.tensor(image).permute(2, 0, 1).contiguous()
        pixels = self._images(images=[wide], return_tensors="pt", input_data_format="channels_first")
        return pixels["pixel_values"][0].numpy()

    @torch.no_grad()
    def look(self, prepared: np.ndarray) -> Seen:
        """Pixel values [N, 3, h, w] to projected features as they are, float64 [N, D], and no labels."""

        def rows(part: Tensor) -> Tensor:
            return self._model.get_image_features(pixel_values=placed(part, self._model)).pooler_output

        return chunked(rows, _CHUNK, torch.from_numpy(prepared)).cpu().double().numpy(), {}

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Texts [N] to projected features as they are, float64 [N, D]; what is too long for the model is cut off."""
        told = self._tokenizer(
            list(texts), padding="max_length", max_length=self._length, truncation=True, return_tensors="pt"
        )

        def rows(*part: Tensor) -> Tensor:
            ids, mask = (placed(each, self._model) for each in part)
            return self._model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

        return chunked(rows, _CHUNK, told["input_ids"], told["attention_mask"]).cpu().double().numpy()

    def to(self, device: str) -> Clip:
        """Itself, on ``device``."""
        self._model.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under their names, and the bytes of the other files."""
        return self._state

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors: nothing."""
        return {}


def pinned(weights: Path) -> str:
    """sha256 of the lines that ``sha256sum`` prints for the files that are read, in the order of their names:
    what ``cd FOLDER && sha256sum config.json … vocab.json | sha256sum`` says. ``weights`` is model.safetensors."""
    lines = [f"{artifacts.sha256_file(path)}  {path.name}\n" for path in sorted([weights, *_files(weights)])]
    return artifacts.sha256_bytes("".join(lines).encode())


def tensors(weights: Path) -> dict[str, Tensor]:
    """A folder, by its model.safetensors, as ``Clip.state_dict``."""
    files = {f"{_FILE}{path.name}": path.read_bytes() for path in _files(weights)}
    found, _ = artifacts.read_tensors(weights)
    return found | {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in files.items()}


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Clip:
    """A CLIP from the tensors of its folder, ready to observe; PerflowError if they are of another model."""
    return Clip(tensors)


def _files(weights: Path) -> list[Path]:
    """The files beside the weights that are read, by name; PerflowError for one that must be there and is not."""
    folder = weights.parent
    there = [folder / name for name in sorted((*_NEEDED, *_TOKENIZER)) if (folder / name).is_file()]
    names = {path.name for path in there}
    words = {"tokenizer.json"} if "tokenizer.json" in names else {"merges.txt", "vocab.json"}
    if absent := sorted({*_NEEDED, *words} - names):
        raise PerflowError(f"{folder}: no {absent[0]}; the folder of a CLIPModel holds its tokenizer's files too")
    return there


def _check(folder: Path) -> None:
    """PerflowError if the files say that they are of another model, which these classes would read wrongly."""
    for name, key, known in (
        ("config.json", "model_type", ("clip",)),
        ("tokenizer_config.json", "tokenizer_class", ("CLIPTokenizer", "CLIPTokenizerFast")),
    ):
        try:
            content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise PerflowError(f"not a CLIPModel: its {name} is no JSON object")
        if content.get(key, known[0]) not in known:
            raise PerflowError(f"not a CLIPModel: its {name} says {key} {content[key]!r}")
