"""Compute in chunks of one fixed size, the last one padded.

Rows of a network computed in full chunks do not depend on how many rows there are; a short last
chunk differs in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def chunked(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """``function`` of ``rows`` (each [N, ...]) in chunks of ``size``; returns [N, ...].

    The last chunk repeats its last row up to ``size``; what that adds is cut off again.
    """
    results = []
    for first in range(0, len(rows[0]), size):
        part = [row[first : first + size] for row in rows]
        count = len(part[0])
        if count < size:
            part = [torch.cat([row, row[-1:].expand(size - count, *row.shape[1:])]) for row in part]
        results.append(function(*part)[:count])
    return torch.cat(results)
