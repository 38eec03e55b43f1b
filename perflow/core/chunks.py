"""Compute in chunks of one fixed size, the last one padded.

Rows of a network computed in full chunks do not depend on how many rows there are; a short last
chunk differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

MOST = 128
"""Rows of the largest chunk, that of latents of 8 x 8 and less."""

Rows = TypeVar("Rows", Tensor, dict[str, Tensor])


def fitting(positions: int, device: str) -> int:
    """Rows of a chunk, from 1 to ``MOST``, for a network on latents of ``positions`` = height x width.

    A function of the model and the kind of device alone, or bytes would depend on how much is asked for. Up to 8 x 8 a
    call costs more than its rows. Beyond, a CPU is busy with few rows, and padding is what a short request waits for:
    4 at 16 x 16, 1 from 32 x 32. A GPU wants more of them at once: 16 at 64 x 64, 4 at 128 x 128.
    """
    if device == "cpu":
        return max(2**10 // positions, 1) if positions > 64 else MOST
    return min(max(2**16 // positions, 1), MOST)


def chunked(function: Callable[..., Rows], size: int, *rows: Tensor) -> Rows:
    """``function`` of ``rows`` (each [N, ...]) in chunks of ``size``; returns what it does, [N, ...].

    The last chunk repeats its last row up to ``size``; what that adds is cut off again.
    """
    results = []
    for first in range(0, len(rows[0]), size):
        part = [row[first : first + size] for row in rows]
        count = len(part[0])
        if count < size:
            part = [torch.cat([row, row[-1:].expand(size - count, *row.shape[1:])]) for row in part]
        found = function(*part)
        results.append({k: v[:count] for k, v in found.items()} if isinstance(found, Mapping) else found[:count])
    if results and isinstance(results[0], Mapping):
        return {name: torch.cat([result[name] for result in results]) for name in results[0]}
    return torch.cat(results)
