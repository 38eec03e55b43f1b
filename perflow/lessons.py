"""A data set as a base sees it: latents and conditions, and the denoising loss on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow.core.denoising import denoising_error, noised
from perflow.datasets import store

Says = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(noised latents [B, ...], timesteps [B], conditions [B, L, D], items [B]) -> raw output [B, ...]"""


@dataclass(frozen=True)
class Lessons:
    """The split "base" of a data set, encoded by a base whose autoencoder and text model stay as they are."""

    base: Any
    """The family object."""
    images: np.ndarray
    """uint8 [N, H, W, 3]"""
    latents: Tensor
    conditions: Tensor
    """Of every different caption, the empty one first."""
    caption: Tensor
    """Index [N] into ``conditions``."""

    @classmethod
    def load(cls, base: Any, dataset: Path) -> Lessons:
        """Encode the data set of the manifest ``dataset``."""
        data = store.load(dataset, "base")
        images, texts = store.images(data), data["text"]
        captions = ["", *sorted(set(texts) - {""})]
        number = {caption: i for i, caption in enumerate(captions)}
        index = torch.tensor([number[text] for text in texts])
        return cls(base, images, base.encode(images), base.embed(captions), index)

    def loss(self, says: Says, batch: int, drop: float, time_power: float, rng: torch.Generator) -> Tensor:
        """The denoising loss of ``says`` on a batch; a scalar."""
        found = noised(self.latents, self.base.schedule, batch, drop, time_power, rng)
        condition = self.conditions[torch.where(found.empty, 0, self.caption[found.item])]
        return denoising_error(says(found.x, found.timestep, condition, found.item), found, self.base.prediction)
