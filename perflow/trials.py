"""What a trial is drawn of, and its samples on disk: an archive of PNGs, the latents, and a grid to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.images import png, tile

_GRID = (4, 16)
"""Rows and columns of a trial's picture."""


def read_prompts(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What is drawn, and what guidance leads away from for each; PerflowError naming a file that is no prompts."""
    content = artifacts.read_object(path, "prompts", prompts=list, negatives=list)
    return content["prompts"], content["negatives"]


def check_finite(model: str, trial: str, latents: Tensor) -> None:
    """PerflowError if a sampler diverged."""
    if not bool(torch.isfinite(latents).all()):
        raise PerflowError(f"{model} {trial}: samples are not finite; the model or solver diverged")


def write(
    folder: Path, trial: Mapping[str, Any], sha256: str, latents: Tensor, images: np.ndarray,
    calls: Tensor | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the latents [N, ...] and images uint8 [N, H, W, 3] of ``trial``, a row of a model of hash ``sha256``, and
    the evaluations ``calls`` [N] of a solver that decides as it goes; returns its entry for a manifest."""
    name = trial["name"]
    files = {kind: folder / f"{name}.{suffix}" for kind, suffix in
             (("images", "zip"), ("latents", "safetensors"), ("grid", "png"))}  # fmt: skip
    artifacts.write_archive(files["images"], {f"{i:05d}.png": png(image) for i, image in enumerate(images)})
    tensors = {"latents": latents} | ({} if calls is None else {"evaluations": calls})
    artifacts.write_tensors(files["latents"], tensors, {"model": sha256, **trial})
    with artifacts.atomic(files["grid"]) as temporary:
        temporary.write_bytes(png(tile(images[:: max(1, len(images) // (_GRID[0] * _GRID[1]))], *_GRID)))
    entries = {kind: {"file": path.name, "sha256": artifacts.sha256_file(path)} for kind, path in files.items()}
    return {key: value for key, value in trial.items() if key != "name"} | entries
