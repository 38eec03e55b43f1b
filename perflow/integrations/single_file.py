"""A pipeline as one safetensors file with the tensor names of the original release.

The layout of CompVis' Stable Diffusion 1 and Stability's 2 (``cond_stage_model`` is the text model) and of its XL
(``conditioner.embedders``), which ComfyUI and AUTOMATIC1111 read, and diffusers' ``from_single_file``:
``model.diffusion_model`` is the UNet, ``first_stage_model`` the autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from perflow import artifacts, original
from perflow.errors import PerflowError
from perflow.models import folder as pipeline_folder


class _Text(NamedTuple):
    """A text model of the original releases."""

    kind: str
    """Its class in transformers."""
    activation: str
    """Known to the readers of the file by its names alone."""
    prefix: str
    """Where it lies in the file."""
    named: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    """Under which names."""


_TEXTS: dict[tuple[str, bool], dict[str, _Text]] = {
    ("StableDiffusionPipeline", False): {
        "text_encoder": _Text("CLIPTextModel", "quick_gelu", "cond_stage_model.transformer.", original.clip),
    },
    ("StableDiffusionPipeline", True): {
        "text_encoder": _Text("CLIPTextModel", "gelu", "cond_stage_model.model.", original.open_clip),
    },
    ("StableDiffusionXLPipeline", True): {
        "text_encoder": _Text("CLIPTextModel", "quick_gelu", "conditioner.embedders.0.transformer.", original.clip),
        "text_encoder_2": _Text(
            "CLIPTextModelWithProjection", "gelu", "conditioner.embedders.1.model.", original.open_clip
        ),
    },
}
"""Pipeline, and whether its UNet projects by matrices -> its text models: Stable Diffusion 1, 2 and XL."""


def tensors(base: Path, index: Mapping[str, Any], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a pipeline whose UNet is ``network``, under their original names, in their stored types.

    Of Stable Diffusion 2 the folder holds the text model without its last layer, which nobody reads, and so does the
    file. PerflowError for a pipeline of another kind.
    """
    texts = _texts(base, index, network)
    found = {f"model.diffusion_model.{name}": value for name, value in original.network(network).items()}
    autoencoder = original.autoencoder(pipeline_folder.tensors(base / "vae"))
    found |= {f"first_stage_model.{name}": value for name, value in autoencoder.items()}
    for part, text in texts.items():
        named = text.named(pipeline_folder.tensors(base / part))
        found |= {text.prefix + name: value for name, value in named.items()}
    return found


def _texts(base: Path, index: Mapping[str, Any], network: Mapping[str, Tensor]) -> dict[str, _Text]:
    linear = _config(base, pipeline_folder.NETWORK).get("use_linear_projection", False)
    texts = _TEXTS.get((index["_class_name"], linear), {})
    kinds = {part: index.get(part, ["", ""])[1] for part in texts}
    sizes = original.told_sizes(network)
    if not texts or sizes != (len(texts) == 2) or kinds != {part: text.kind for part, text in texts.items()}:
        raise PerflowError(
            f"{base}: single files are written for Stable Diffusion 1, 2 and XL pipelines; give a folder"
        )
    for part, text in texts.items():
        if (found := _config(base, part).get("hidden_act", "quick_gelu")) != text.activation:
            raise PerflowError(
                f"{base / part}: its activation is {found}; readers of a single file take it for {text.activation},"
                " that of the original release; give a folder"
            )
    return texts


def _config(base: Path, part: str) -> dict[str, Any]:
    return artifacts.read_json(pipeline_folder.place(base / part) / "config.json")
