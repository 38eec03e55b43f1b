"""Draw latents from any model: on its windows, or with a training-free scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core import spacing
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
    stream: str = "noise"
    """Which noise: trials of other streams have nothing in common with those of the study."""

    @classmethod
    def load(
        cls, model: Path, device: str, captions: list[str], per_prompt: int, seed: int,
        negatives: Sequence[str] = ("",), stream: str = "noise",
    ) -> Drawer:  # fmt: skip
        """Load a model and embed ``captions``, ``per_prompt`` items each, and ``negatives`` of all or of each."""
        return cls.of(handle.load(model, device), device, captions, per_prompt, seed, negatives, stream)

    @classmethod
    def of(
        cls, model: handle.Model, device: str, captions: list[str], per_prompt: int, seed: int,
        negatives: Sequence[str] = ("",), stream: str = "noise",
    ) -> Drawer:  # fmt: skip
        """As ``load``, of a model that is loaded."""
        away = list(negatives) if len(set(negatives)) > 1 else list(negatives[:1])
        told = model.base.embed([*captions, *away] if model.base.has_null else captions)
        prompts, null = torch.arange(len(captions)).repeat_interleave(per_prompt), None
        if model.base.has_null:
            every = torch.arange(len(captions), len(captions) + len(away))
            null = take(told, every.repeat_interleave(per_prompt if len(away) > 1 else 1))
        return cls(model, take(told, prompts), null, len(prompts), seed, device, stream)

    def away(self, items: Tensor) -> dict[str, Tensor] | None:
        """What guidance leads away from for some of the items: [1, ...] or [len(items), ...]."""
        if self.null is None or all(len(value) == 1 for value in self.null.values()):
            return self.null
        return take(self.null, items)

    def noise(self, stream: int) -> Tensor:
        """Initial noise of all items, [N, *latent]."""
        shape, label = self.model.base.latent_shape, f"{self.stream}-{stream}"
        return normal(shape, self.seed, label, range(self.items)).to(self.device)

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor) -> Tensor:
        """Latents [N, *latent] of a trial, whose spacing is known (not ``best``). Noise that a solver adds on its way
        is a function of (seed, stream, item, step), so it does not depend on the chunks."""
        items = torch.arange(self.items)
        times = self.times(trial)
        return chunked(lambda x, i: self._draw(trial, times, x, i), self.model.base.chunk, noise, items)

    def times(self, trial: Trial) -> list[float] | None:
        """Where the trial's steps begin; None where its solver, or the windows, place them (trailing)."""
        if isinstance(trial.spacing, list):
            return trial.spacing
        if trial.spacing == "trailing":
            return None
        return spacing.times(trial.spacing, trial.steps, self.model.base.schedule)

    def _draw(self, trial: Trial, times: list[float] | None, x: Tensor, items: Tensor) -> Tensor:
        conditions, null = take(self.conditions, items), self.away(items)
        if trial.scheduler is not None:
            added = [generator(self.seed, f"re{self.stream}-{trial.stream}", item) for item in items.tolist()]
            field = self.model.says(conditions, null, trial.guidance)
            config = self.model.base.scheduler_config
            return schedulers.draw(trial.scheduler, trial.steps, config, field, x, added, times)
        flow = self.model.flow
        if flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        scales = each_window(trial.guidance, len(flow.windows))
        laid = flow.windows.steps(trial.steps) if times is None else spacing.window_steps(flow.windows, times)
        for k, steps in groupby(laid, key=lambda step: step.k):
            x = follow(self.model.says(conditions, null, scales[k]), flow, x, steps)
        return x
