"""Window pairs on disk and in memory: the one currency between teacher and student.

A cache is a folder: ``shard-00000.safetensors`` … with ``start``, ``end`` [n, *latent] fp32, ``k`` [n]
and ``caption`` [n]; ``conditions.safetensors`` with the embedding of each distinct caption, the empty
one first; and ``manifest.json``, written last, with every file's sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError

MANIFEST = "manifest.json"
CONDITIONS = "conditions.safetensors"


class PairBatch(NamedTuple):
    """B window pairs: x at the window's start and end [B, *latent], window k [B], condition [B, ...]."""

    start: Tensor
    end: Tensor
    k: Tensor
    condition: Tensor


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
    conditions: Tensor

    @classmethod
    def load(cls, manifest_path: str | Path, device: str | torch.device = "cpu") -> PairCache:
        """Read a cache; PerflowError naming the file that is missing, altered or truncated."""
        manifest = artifacts.read_json(manifest_path)
        folder = Path(manifest_path).parent
        try:
            shards, conditions = manifest["shards"], manifest["conditions"]
        except (KeyError, TypeError):
            raise PerflowError(f"{manifest_path}: not a manifest of window pairs") from None
        parts = [_read(folder, entry, manifest_path) for entry in shards]
        joined = {
            name: torch.cat([part[name] for part in parts]).to(device) for name in ("start", "end", "k", "caption")
        }
        return cls(manifest, **joined, conditions=_read(folder, conditions, manifest_path)["conditions"].to(device))

    def __len__(self) -> int:
        return len(self.k)

    def batch(self, indices: Tensor) -> PairBatch:
        """The pairs at ``indices`` [B]."""
        indices = indices.to(self.k.device)
        condition = self.conditions[self.caption[indices].long()]
        return PairBatch(self.start[indices], self.end[indices], self.k[indices].long(), condition)


def _read(folder: Path, entry: dict[str, str], made_by: str | Path) -> dict[str, Tensor]:
    path = artifacts.verify_file(folder / entry["file"], entry["sha256"], made_by)
    return artifacts.read_tensors(path)[0]
