"""Window pairs on disk: the one currency between teacher and student.

A cache is a folder: ``shard-00000.safetensors`` … with ``start``, ``end`` [n, *latent] fp32, ``k`` [n]
and ``caption`` [n], and ``guidance`` [n] fp32 where every pair has its own; ``conditions.safetensors`` with
the condition of each distinct caption, or its tokens, that of the empty one first where the base knows one; and
``manifest.json``, written last, with every file's sha256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perflow import artifacts
from perflow.artifacts import Place
from perflow.core.condition import Condition
from perflow.errors import PerflowError
from perflow.stored import Files, Stored

MANIFEST = "manifest.json"
CONDITIONS = "conditions.safetensors"
_SHARD = ("start", "end", "k", "caption")


Reads = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""What is kept of captions [B, ...] -> their conditions [B, ...]: a base's ``condition``."""


class PairBatch(NamedTuple):
    """B window pairs: x at the window's start and end [B, *latent], window k [B] on the CPU, condition [B, ...]."""

    start: Tensor
    end: Tensor
    k: Tensor
    condition: Condition


class Part(NamedTuple):
    """Part ``number`` of ``of`` of a cache's shards, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def list(self, manifest_path: Path) -> Path:
        """Where the part's shards are listed once they are made, beside the manifest."""
        return manifest_path.with_name(f"part-{self.number}-of-{self.of}.json")


def shard_name(index: int) -> str:
    """The file name of shard ``index``."""
    return f"shard-{index:05d}.safetensors"


@dataclass(frozen=True)
class PairCache:
    """A cache whose pairs stay on disk and are read batch by batch; eight bytes a pair are in memory, and tables of up
    to 16 MiB."""

    manifest: dict[str, Any]
    start: Stored
    end: Stored
    k: Tensor
    caption: Tensor
    conditions: dict[str, Stored]
    device: torch.device
    reads: Reads
    guidance: Tensor | None = None
    """[N] fp32 where each pair has its own, four bytes more."""

    @classmethod
    def load(
        cls, manifest_path: str | Path, device: str | torch.device = "cpu", share: slice = slice(None),
        reads: Reads = dict,
    ) -> PairCache:  # fmt: skip
        """Open a cache; PerflowError naming the file that is missing, altered or truncated.

        The files of ``share`` are checked against the manifest's sha256: of several processes on one cache each
        takes its own. Their form is checked in any case. ``reads`` makes conditions of what is kept of captions; by
        default they are kept themselves.
        """
        what = "a manifest of window pairs"
        manifest = artifacts.read_object(
            manifest_path, what, shards=list, edges=list, teacher=dict | None, conditions=dict
        )
        if manifest["teacher"] is not None:
            artifacts.has(manifest["teacher"], manifest_path, what, name=str, sha256=str)
        entries = [manifest["conditions"], *manifest["shards"]]
        paths = [artifacts.beside(manifest_path, entry, verify=False) for entry in entries]
        for entry in entries[share]:
            artifacts.beside(manifest_path, entry)
        places = [artifacts.layout(path) for path in paths]
        files = Files()

        def stored(name: str, which: slice) -> Stored:
            pieces = list(zip(paths, places, strict=True))[which]
            return Stored([(path, place[name]) for path, place in pieces], files)

        for path, found in zip(paths, places, strict=True):
            if path is not paths[0] and (absent := [name for name in _SHARD if name not in found]):
                raise PerflowError(f"{path}: lacks '{absent[0]}'; delete {manifest_path} and run again")
        header = artifacts.read_header(paths[0])
        found = artifacts.has(header, paths[0], "the conditions of window pairs", captions=list | int)["captions"]
        captions = found if isinstance(found, int) else len(found)
        small, own = {}, None
        ranged = isinstance(manifest.get("guidance"), list)
        if fits := _fit(places[1:], places[0], captions, ranged):
            small = {name: stored(name, slice(1, None))[:] for name in ("k", "caption")}
            bounds = {"k": len(manifest["edges"]) - 1, "caption": captions}
            fits = all(not len(v) or 0 <= int(v.min()) <= int(v.max()) < bounds[name] for name, v in small.items())
        if not fits:
            raise PerflowError(f"{manifest_path}: its shards do not fit together; delete it and run again")
        if ranged:
            own = stored("guidance", slice(1, None))[:]
        tables = {name: stored(name, slice(1, None)) for name in ("start", "end")}
        conditions = {name: stored(name, slice(1)) for name in places[0]}
        return cls(
            manifest, **tables, **small, conditions=conditions, device=torch.device(device), reads=reads, guidance=own
        )

    def __len__(self) -> int:
        return len(self.k)

    def batch(self, indices: Tensor) -> PairBatch:
        """The pairs at ``indices`` [B]."""
        start, end = (self._read(stored, indices) for stored in (self.start, self.end))
        return PairBatch(start, end, self.k[indices].long(), self.told(self.caption[indices].long()))

    def told(self, captions: Tensor) -> dict[str, Tensor]:
        """The conditions of ``captions`` [B], numbers in the manifest's order."""
        return self.reads({name: self._read(stored, captions) for name, stored in self.conditions.items()})

    def _read(self, stored: Stored, at: Tensor) -> Tensor:
        return stored.read(at, pinned=self.device.type == "cuda").to(self.device, non_blocking=True)


def _fit(shards: list[dict[str, Place]], conditions: dict[str, Place], captions: int, ranged: bool) -> bool:
    """Whether shards hold pairs of one latent shape, and the conditions something for each caption; of pairs of a
    ``ranged`` guidance each its own."""
    if not shards or any(place.shape[:1] != (captions,) for place in conditions.values()):
        return False
    shape, latent = shards[0]["start"].shape[1:], shards[0]["start"].dtype
    for shard in shards:
        items = shard["k"].shape
        if len(items) != 1 or len(shape) == 0 or not latent.is_floating_point:
            return False
        if any(shard[name].shape != (*items, *shape) or shard[name].dtype != latent for name in ("start", "end")):
            return False
        if any(shard[name].shape != items or shard[name].dtype != torch.int32 for name in ("k", "caption")):
            return False
        if ranged and ("guidance" not in shard or shard["guidance"][:2] != (torch.float32, items)):
            return False
    return True
