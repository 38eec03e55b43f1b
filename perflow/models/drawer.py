"""Draw latents from any model: on its windows, or with a training-free scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.core.fields import follow
from perflow.core.grid import each_window
from perflow.core.guidance import guided
from perflow.core.rng import generator, normal
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS, handle, schedulers

if TYPE_CHECKING:
    from perflow.config.rows import Trial

_CHUNK = 128


@dataclass(frozen=True)
class Drawer:
    """A model with the conditions of its items."""

    model: handle.Model
    conditions: Tensor
    null: Tensor
    """What guidance leads away from: one condition for all items, or one for each."""
    items: int
    seed: int
    device: str

    @classmethod
    def load(cls, model: Path, device: str, captions: list[str], per_prompt: int, seed: int,
             negatives: Sequence[str] = ("",)) -> Drawer:  # fmt: skip
        """Load a model and embed ``captions``, ``per_prompt`` items each, and ``negatives`` of all or of each."""
        loaded = handle.load(model, device)
        away = list(negatives) if len(set(negatives)) > 1 else list(negatives[:1])
        embedded = loaded.base.embed([*captions, *away])
        conditions = embedded[: len(captions)].repeat_interleave(per_prompt, dim=0)
        null = embedded[len(captions) :]
        null = null.repeat_interleave(per_prompt, dim=0) if len(away) > 1 else null
        return cls(loaded, conditions, null, len(conditions), seed, device)

    def away(self, items: Tensor) -> Tensor:
        """What guidance leads away from for some of the items: [1, ...] or [len(items), ...]."""
        return self.null if len(self.null) == 1 else self.null[items.to(self.null.device)]

    def noise(self, stream: int) -> Tensor:
        """Initial noise of all items, [N, *latent]."""
        return normal(self.model.base.latent_shape, self.seed, f"noise-{stream}", range(self.items)).to(self.device)

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor) -> Tensor:
        """Latents [N, *latent] of a trial. Noise that a solver adds on its way is a function of (seed, stream, item,
        step), so it does not depend on the chunks."""
        items = torch.arange(self.items)
        return chunked(lambda x, c, i: self._draw(trial, x, c, i), _CHUNK, noise, self.conditions, items)

    def _draw(self, trial: Trial, x: Tensor, conditions: Tensor, items: Tensor) -> Tensor:
        network, null = self.model.base.network(self.model.unet), self.away(items)
        if trial.scheduler is not None:
            added = [generator(self.seed, f"renoise-{trial.stream}", item) for item in items.tolist()]
            field = guided(network, conditions, null, trial.guidance)
            return schedulers.draw(trial.scheduler, trial.steps, self.model.base.scheduler_config, field, x, added)
        flow = self.model.flow
        if flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        scales = each_window(trial.guidance, len(flow.windows))
        for k, steps in groupby(flow.windows.steps(trial.steps), key=lambda step: step.k):
            x = follow(guided(network, conditions, null, scales[k]), flow, x, steps)
        return x
