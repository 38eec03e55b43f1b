"""Window pairs on disk and in memory: the one currency between teacher and student.

A cache is a folder: ``shard-00000.safetensors`` … with ``start``, ``end`` [n, *latent] fp32, ``k`` [n]
and ``caption`` [n]; ``conditions.safetensors`` with the condition of each distinct caption, that of
the empty one first where the base knows one; and ``manifest.json``, written last, with every file's sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perflow import artifacts
from perflow.core.condition import Condition, take
from perflow.errors import PerflowError

MANIFEST = "manifest.json"
CONDITIONS = "conditions.safetensors"
_SHARD = ("start", "end", "k", "caption")


class PairBatch(NamedTuple):
    """B window pairs: x at the window's start and end [B, *latent], window k [B], condition [B, ...]."""

    start: Tensor
    end: Tensor
    k: Tensor
    condition: Condition


def shard_name(index: int) -> str:
    """The file name of shard ``index``."""
    return f"shard-{index:05d}.safetensors"


@dataclass(frozen=True)
class PairCache:
    """A cache read into memory, each file checked against the manifest."""

    manifest: dict[str, Any]
    start: Tensor
    end: Tensor
    k: Tensor
    caption: Tensor
    conditions: dict[str, Tensor]

    @classmethod
    def load(cls, manifest_path: str | Path, device: str | torch.device = "cpu") -> PairCache:
        """Read a cache; PerflowError naming the file that is missing, altered or truncated."""
        what = "a manifest of window pairs"
        manifest = artifacts.read_object(manifest_path, what, shards=list, edges=list, teacher=dict, conditions=dict)
        artifacts.has(manifest["teacher"], manifest_path, what, name=str, sha256=str)
        path = artifacts.beside(manifest_path, manifest["conditions"])
        conditions, header = artifacts.read_tensors(path)
        captions = len(artifacts.has(header, path, "the conditions of window pairs", captions=list)["captions"])
        parts = [artifacts.tensors_beside(manifest_path, entry, *_SHARD) for entry in manifest["shards"]]
        whole = all(value.ndim > 0 and len(value) == captions for value in conditions.values())
        if not whole or not _fit(parts, len(manifest["edges"]) - 1, captions):
            raise PerflowError(f"{manifest_path}: its shards do not fit together; delete it and run again")
        joined = {name: torch.cat([part[name] for part in parts]).to(device) for name in _SHARD}
        return cls(manifest, **joined, conditions={name: value.to(device) for name, value in conditions.items()})

    def __len__(self) -> int:
        return len(self.k)

    def batch(self, indices: Tensor) -> PairBatch:
        """The pairs at ``indices`` [B]."""
        indices = indices.to(self.k.device)
        condition = take(self.conditions, self.caption[indices].long())
        return PairBatch(self.start[indices], self.end[indices], self.k[indices].long(), condition)


def _fit(parts: list[dict[str, Tensor]], windows: int, captions: int) -> bool:
    """Whether shards are pairs of one latent shape, of so many windows and captions."""
    if not parts:
        return False
    shape, bounds = parts[0]["start"].shape[1:], {"k": windows, "caption": captions}
    for part in parts:
        items = part["k"].numel()
        fits = all(part[name].shape == (items, *shape) and part[name].is_floating_point() for name in ("start", "end"))
        if not fits or len(shape) == 0:
            return False
        for name, bound in bounds.items():
            if part[name].dtype != torch.int32 or part[name].shape != (items,):
                return False
            if items and not 0 <= int(part[name].min()) <= int(part[name].max()) < bound:
                return False
    return True
