"""LPIPS as others wrote it: a TorchScript program of two batches of images.

It takes uint8 images [B, 3, H, W] twice and returns distances [B], so what its network expects of pixels is inside it,
and so are LPIPS's own linear weights. A program runs as it was saved: give only files you trust, by their hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.errors import PerflowError
from perflow.metrics.scripted import PROGRAM, program

_CHUNK = 32


class Perceptual:
    """The program, and how it is asked."""

    def __init__(self, data: Tensor) -> None:
        self.values: dict[str, list[str]] = {}
        """It reads no attribute of the study's data."""
        self._data, self._program = data, program(data)

    @torch.no_grad()
    def distances(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Distance [M] between uint8 images [M, H, W, 3] and as many others, in padded chunks of one size.

        PerflowError if the program fails, or returns no finite numbers from 0 [B].
        """

        def ask(*sides: Tensor) -> Tensor:
            try:
                found = self._program(*(side.permute(0, 3, 1, 2).contiguous() for side in sides))
            except RuntimeError as error:
                raise PerflowError(f"LPIPS: the program fails ({str(error).strip().splitlines()[-1]})") from None
            if not isinstance(found, Tensor) or found.shape != sides[0].shape[:1]:
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise PerflowError(f"LPIPS: the program returns {shape} for {len(sides[0])} pairs; distances are [B]")
            return found.double()

        found = chunked(ask, _CHUNK, torch.from_numpy(one), torch.from_numpy(other)).numpy()
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise PerflowError("LPIPS: the program returns distances below 0 or not finite")
        return found

    def within(self, images: np.ndarray, per_prompt: int) -> np.ndarray:
        """Images [P n, H, W, 3], n = ``per_prompt`` of each prompt in turn, to distances [P, n (n - 1) / 2]."""
        starts = np.arange(0, len(images), per_prompt)[:, None]
        one, other = (starts + side for side in np.triu_indices(per_prompt, 1))
        rows = [self.distances(images[a], images[b]) for a, b in zip(one, other, strict=True)]
        return np.stack(rows)

    def state_dict(self) -> dict[str, Tensor]:
        """The program's bytes, as a tensor."""
        return {PROGRAM: self._data}

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors: nothing."""
        return {}


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Perceptual:
    """A program of two batches, ready to tell distances; PerflowError if it is none."""
    return Perceptual(tensors[PROGRAM])
