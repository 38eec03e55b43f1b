"""Feature networks that others wrote as TorchScript: FID's Inception as clean-fid has it, and anybody's own.

``inception`` is the file that clean-fid loads (inception-2015-12-05.pt), on images resized as clean-fid's "clean" mode
resizes them: its Fréchet distance is clean-fid's. ``torchscript`` is any program that takes uint8 images
[B, 3, H, W] and returns features [B, D]; if it tells classes, it has a method ``logits`` too (features -> [B, C],
exported with ``torch.jit.export``). A program runs as it was saved: give only files you trust, by their hash.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perflow.core.chunks import chunked
from perflow.errors import PerflowError, no_room
from perflow.metrics.looking import Looks, Seen, expect

PROGRAM = "program"
_CHUNK = 32


class Scripted(Looks):
    """A program and how it is asked: ``ask(program, images [B, ...]) -> float [B, D]`` and
    ``tell(program, features [B, D]) -> logits [B, C]``, and how an image is ``resized`` for it beforehand, if it is."""

    def __init__(
        self, data: Tensor, ask: Callable[[Any, Tensor], Tensor], tell: Callable[[Any, Tensor], Tensor],
        resized: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self._data, self._ask, self._tell, self._resized = data, ask, tell, resized
        self._program, self._device = program(data), "cpu"

    @torch.no_grad()
    def classify(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Features [N, D] as ``observe`` gives them to probabilities, float64 [N, C], of the program's classes.

        PerflowError if the program tells none.
        """
        with answering("extractor", self._device):
            logits = self._tell(self._program, torch.from_numpy(features).float().to(self._device))
        return {"class": logits.cpu().double().softmax(1).numpy()}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image, resized as the program's metric asks."""
        expect("extractor", image, "H", "W", 3)
        return image if self._resized is None else self._resized(image)

    @torch.no_grad()
    def look(self, prepared: np.ndarray) -> Seen:
        """Prepared images [N, H, W, 3] to features as they are, float64 [N, D], and no labels."""
        with answering("extractor", self._device):
            rows = chunked(
                lambda part: self._ask(self._program, part.to(self._device)), _CHUNK, torch.from_numpy(prepared)
            )
        features = rows.cpu()
        if features.ndim != 2 or not bool(torch.isfinite(features).all()):
            raise PerflowError(f"extractor: returns {tuple(features.shape)}; features are finite numbers [B, D]")
        return features.double().numpy(), {}

    def to(self, device: str) -> Scripted:
        """Itself, on ``device``."""
        self._program.to(device)
        self._device = device
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """The program's bytes, as a tensor."""
        return {PROGRAM: self._data}

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors: nothing."""
        return {}


@contextlib.contextmanager
def answering(who: str, device: str) -> Iterator[None]:
    """What a program of the user's raises on ``device``, as one line; that a device has no room is said elsewhere."""
    try:
        yield
    except RuntimeError as error:
        if no_room(error) is not None:
            raise
        said = [type(error).__name__, *str(error).strip().splitlines()][-1]
        raise PerflowError(f"{who}: the program fails on {device} ({said})") from None


def program(data: Tensor) -> Any:
    """A program of its bytes, uint8; PerflowError if they are none."""
    try:
        return torch.jit.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise PerflowError(f"not a TorchScript program ({str(error).splitlines()[0]})") from None


def tensors(path: Path) -> dict[str, Tensor]:
    """A program's file as ``Scripted.state_dict``."""
    return {PROGRAM: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)}


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Scripted:
    """A program that takes images [B, 3, H, W], ready to observe; PerflowError if it is none."""

    def ask(program: Any, part: Tensor) -> Tensor:
        return program(part.permute(0, 3, 1, 2).contiguous()).float()

    return Scripted(tensors[PROGRAM], ask, _own_logits)


def restore_inception(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Scripted:
    """clean-fid's Inception, ready to observe 2048 features; PerflowError if the program has no ``layers``."""
    from cleanfid.resize import build_resizer

    found = Scripted(tensors[PROGRAM], _inception, _inception_logits, build_resizer("clean"))
    if not hasattr(found._program, "layers"):
        raise PerflowError("not clean-fid's Inception: the program has no 'layers'")
    return found


def _own_logits(program: Any, features: Tensor) -> Tensor:
    if not hasattr(program, "logits"):
        raise PerflowError("extractor: the program tells no classes: it has no method 'logits' (features -> [B, C])")
    return program.logits(features)


def _inception_logits(program: Any, features: Tensor) -> Tensor:
    """Of the 1008 classes, without the layer's bias, which the published score does not add (arXiv 1606.03498)."""
    weight = getattr(getattr(program, "output", None), "weight", None)
    if weight is None or weight.ndim != 2 or weight.shape[1] != features.shape[1]:
        raise PerflowError("extractor: this Inception tells no classes: the program has no layer 'output' of features")
    return functional.linear(features, weight)


def _inception(program: Any, part: Tensor) -> Tensor:
    return program.layers.forward((part.permute(0, 3, 1, 2) - 128) / 128).flatten(1)
