"""LPIPS as others wrote it: a TorchScript program of two batches of images.

It takes uint8 images [B, 3, H, W] twice and returns distances [B], so what its network expects of pixels is inside it,
and so are LPIPS's own linear weights. As a loss it is given floats from 0 to 255, and must pass a gradient on. A
program runs as it was saved: give only files you trust, by their hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.errors import PerflowError
from perflow.metrics.scripted import PROGRAM, answering, program

_CHUNK = 32


class Perceptual:
    """The program, and how it is asked."""

    def __init__(self, data: Tensor) -> None:
        self._data, self._program, self._device = data, program(data), "cpu"
        for parameter in self._program.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def distances(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Distance [M] between uint8 images [M, H, W, 3] and as many others, in padded chunks of one size.

        PerflowError if the program fails, or returns no finite numbers from 0 [B].
        """

        def ask(*sides: Tensor) -> Tensor:
            return self._ask(*(side.to(self._device).permute(0, 3, 1, 2).contiguous() for side in sides)).double()

        found = chunked(ask, _CHUNK, torch.from_numpy(one), torch.from_numpy(other)).cpu().numpy()
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise PerflowError("LPIPS: the program returns distances below 0 or not finite")
        return found

    def within(self, images: Iterable[np.ndarray], per_prompt: int) -> np.ndarray:
        """P n images uint8 [H, W, 3], n = ``per_prompt`` of each prompt in turn, to distances [P, n (n - 1) / 2]."""
        one, other = np.triu_indices(per_prompt, 1)
        rows, images = [], iter(images)
        while alike := list(islice(images, per_prompt)):
            rows.append(self.distances(np.stack(alike)[one], np.stack(alike)[other]))
        return np.stack(rows)

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance [B] between images [B, 3, H, W] from 0 to 255 (floats) and as many others, with a gradient.

        PerflowError if the program fails on them, or passes no gradient on.
        """
        found = self._ask(one, other)
        if one.requires_grad and not found.requires_grad:
            raise PerflowError("LPIPS: the program passes no gradient on; it serves as a measure, not as a loss")
        return found.float()

    def to(self, device: str) -> Perceptual:
        """Itself, on ``device``."""
        self._program.to(device)
        self._device = device
        return self

    def _ask(self, one: Tensor, other: Tensor) -> Tensor:
        """What the program says of two batches [B, 3, H, W]."""
        with answering("LPIPS", self._device):
            found = self._program(one, other)
        if not isinstance(found, Tensor) or found.shape != one.shape[:1]:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise PerflowError(f"LPIPS: the program returns {shape} for {len(one)} pairs; distances are [B]")
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The program's bytes, as a tensor."""
        return {PROGRAM: self._data}

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors: nothing."""
        return {}


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Perceptual:
    """A program of two batches, ready to tell distances; PerflowError if it is none."""
    return Perceptual(tensors[PROGRAM])
