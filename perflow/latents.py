"""A data set as a base sees it, on disk: latents of its images, conditions of its captions.

A folder: ``latents-00000.safetensors`` … with ``latents`` [n, *latent] fp32 and ``caption`` [n];
``conditions.safetensors`` with the condition of each different caption, that of the empty one first where the
base knows one, or with its tokens where conditions are ``recomputed`` by the base's ``condition``; and
``manifest.json``, written last, with every file's sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError

CONDITIONS = "conditions.safetensors"


def shard_name(index: int) -> str:
    """The file name of shard ``index``."""
    return f"latents-{index:05d}.safetensors"


@dataclass(frozen=True)
class Latents:
    """N latents, the number of each one's caption, and what is kept of all captions: their conditions or tokens."""

    manifest: dict[str, Any]
    latents: Tensor
    caption: Tensor
    conditions: dict[str, Tensor]
    captions: list[str]
    """The texts of the conditions; the first is empty where the base knows a condition of no prompt."""

    @property
    def recomputed(self) -> bool:
        """Whether tokens are kept, and conditions made of them where they are needed."""
        return bool(self.manifest.get("recomputed"))

    @classmethod
    def of(cls, path: str | Path, name: str, base_sha256: str, device: str = "cpu") -> Latents:
        """As ``load``; PerflowError unless they are of the base of the model ``name``, by the hash of its network."""
        data = cls.load(path, device)
        if (found := data.manifest["base"]["sha256"]) != base_sha256:
            raise PerflowError(
                f"{path}: latents of another base ({found[:12]}) than that of '{name}' ({base_sha256[:12]});"
                " delete it and run again"
            )
        return data

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Latents:
        """Read what ``encode`` wrote; PerflowError naming a file that is missing, altered or of another kind."""
        what = "a manifest of latents"
        manifest = artifacts.read_object(path, what, shards=list, base=dict, conditions=dict, captions=list)
        parts = [artifacts.tensors_beside(path, entry, "latents", "caption") for entry in manifest["shards"]]
        conditions = artifacts.tensors_beside(path, manifest["conditions"])
        latents, caption = (torch.cat([part[name] for part in parts]) for name in ("latents", "caption"))
        told = {name: value.to(device) for name, value in conditions.items()}
        return cls(manifest, latents.to(device), caption.long(), told, manifest["captions"])
