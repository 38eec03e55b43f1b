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
from perflow.core.condition import take
from perflow.core.fields import follow
from perflow.core.grid import each_window
from perflow.core.rng import generator, normal
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS, handle, schedulers

if TYPE_CHECKING:
    from perflow.config.rows import Trial


@dataclass(frozen=True)
class Drawer:
    """A model with the conditions of its items."""

    model: handle.Model
    conditions: dict[str, Tensor]
    null: dict[str, Tensor] | None
    """What guidance leads away from: one condition for all items, or one for each."""
    items: int
    seed: int
    device: str

    @classmethod
    def load(
        cls, model: Path, device: str, captions: list[str], per_prompt: int, seed: int,
        negatives: Sequence[str] = ("",),
    ) -> Drawer:  # fmt: skip
        """Load a model and embed ``captions``, ``per_prompt`` items each, and ``negatives`` of all or of each."""
        return cls.of(handle.load(model, device), device, captions, per_prompt, seed, negatives)

    @classmethod
    def of(
        cls, model: handle.Model, device: str, captions: list[str], per_prompt: int, seed: int,
        negatives: Sequence[str] = ("",),
    ) -> Drawer:  # fmt: skip
        """As ``load``, of a model that is loaded."""
        away = list(negatives) if len(set(negatives)) > 1 else list(negatives[:1])
        told = model.base.embed([*captions, *away] if model.base.has_null else captions)
        prompts, null = torch.arange(len(captions)).repeat_interleave(per_prompt), None
        if model.base.has_null:
            null = take(
                told, torch.arange(len(away)).repeat_interleave(per_prompt if len(away) > 1 else 1) + len(captions)
            )
        return cls(model, take(told, prompts), null, len(prompts), seed, device)

    def away(self, items: Tensor) -> dict[str, Tensor] | None:
        """What guidance leads away from for some of the items: [1, ...] or [len(items), ...]."""
        if self.null is None or all(len(value) == 1 for value in self.null.values()):
            return self.null
        return take(self.null, items)

    def noise(self, stream: int) -> Tensor:
        """Initial noise of all items, [N, *latent]."""
        return normal(self.model.base.latent_shape, self.seed, f"noise-{stream}", range(self.items)).to(self.device)

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor) -> Tensor:
        """Latents [N, *latent] of a trial. Noise that a solver adds on its way is a function of (seed, stream, item,
        step), so it does not depend on the chunks."""
        items = torch.arange(self.items)
        return chunked(lambda x, i: self._draw(trial, x, i), self.model.base.chunk, noise, items)

    def _draw(self, trial: Trial, x: Tensor, items: Tensor) -> Tensor:
        conditions, null = take(self.conditions, items), self.away(items)
        if trial.scheduler is not None:
            added = [generator(self.seed, f"renoise-{trial.stream}", item) for item in items.tolist()]
            field = self.model.says(conditions, null, trial.guidance)
            return schedulers.draw(trial.scheduler, trial.steps, self.model.base.scheduler_config, field, x, added)
        flow = self.model.flow
        if flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        scales = each_window(trial.guidance, len(flow.windows))
        for k, steps in groupby(flow.windows.steps(trial.steps), key=lambda step: step.k):
            x = follow(self.model.says(conditions, null, scales[k]), flow, x, steps)
        return x
