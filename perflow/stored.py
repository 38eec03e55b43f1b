"""Tensors that stay on disk and are read row by row: what is in memory does not grow with their number of rows.

Those that are small anyway are read once, and held.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from perflow.artifacts import Place
from perflow.errors import PerflowError

_FILES = 128
"""Files held open at once; many systems allow a process 1,024."""
_SMALL = 2**24
"""Bytes of the largest tensor that is held."""


class Files:
    """Files opened for reading when first asked for; the ones asked for longest ago are closed."""

    def __init__(self) -> None:
        self.open = functools.lru_cache(_FILES)(functools.partial(open, mode="rb", buffering=0))


class Stored:
    """One tensor [N, ...] in pieces [n, ...], each in a file of its own; ``stored[index]`` reads the rows asked for.

    ``pread`` and not a memory map: the pages of a map count as this process's memory, and stay.
    """

    def __init__(self, pieces: Sequence[tuple[Path, Place]], files: Files):
        self.pieces, self.files = list(pieces), files
        self.ends = list(accumulate(place.shape[0] for _, place in self.pieces))
        first = self.pieces[0][1]
        self.dtype, self.shape = first.dtype, (self.ends[-1], *first.shape[1:])
        self.row = torch.empty((), dtype=self.dtype).element_size() * int(torch.Size(first.shape[1:]).numel())
        """Bytes of a row."""
        self._held: Tensor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """The rows at ``index`` (whatever indexes a tensor's first axis), in that order, on the CPU."""
        return self.read(torch.arange(len(self))[index])

    def read(self, indices: Tensor, pinned: bool = False) -> Tensor:
        """The rows at ``indices`` [B] -> [B, ...]; ``pinned`` memory can be copied to a GPU without waiting."""
        if len(self) * self.row > _SMALL:
            return self._from_disk(indices, pinned)
        if self._held is None:
            self._held = self._from_disk(torch.arange(len(self)))
        rows = self._held[indices]
        return rows.pin_memory() if pinned else rows

    def _from_disk(self, indices: Tensor, pinned: bool = False) -> Tensor:
        rows = torch.empty((len(indices), *self.shape[1:]), dtype=self.dtype, pin_memory=pinned)
        if not rows.numel():
            return rows
        buffer = memoryview(rows.view(-1).view(torch.uint8).numpy())
        for at, piece, first, count in self._runs(indices):
            path, place = self.pieces[piece]
            part = buffer[at * self.row : (at + count) * self.row]
            if _read(self.files.open(path).fileno(), part, place.offset + first * self.row) < len(part):
                raise PerflowError(f"{path}: shorter than its header says; delete it and run again")
        return rows

    def _runs(self, indices: Tensor) -> Iterator[tuple[int, int, int, int]]:
        """Neighbours asked for one after the other, as one: (position among the indices, piece, its row, rows)."""
        pieces = torch.searchsorted(torch.tensor(self.ends), indices, right=True).tolist()
        starts = [0, *self.ends]
        local = [index - starts[piece] for index, piece in zip(indices.tolist(), pieces, strict=True)]
        begun = 0
        for i in range(1, len(local) + 1):
            if i < len(local) and pieces[i] == pieces[begun] and local[i] == local[begun] + i - begun:
                continue
            yield begun, pieces[begun], local[begun], i - begun
            begun = i


def _read(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill ``buffer`` from ``offset`` of a file; returns the bytes that were there."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done
