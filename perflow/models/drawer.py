"""Draw latents from any model: on its windows, or with a training-free scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core import spacing
from perflow.core.chunks import chunked
from perflow.core.fields import follow
from perflow.core.grid import each_window
from perflow.core.guidance import guided
from perflow.core.rng import generator, normal
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS, handle, schedulers

if TYPE_CHECKING:
    from perflow.config.rows import Trial

CHUNK = 128


@dataclass(frozen=True)
class Drawer:
    """A model with the conditions of its items."""

    model: handle.Model
    conditions: Tensor
    null: Tensor
    items: int
    seed: int
    device: str
    stream: str = "noise"
    """Which noise: trials of other streams have nothing in common with those of the study."""

    @classmethod
    def load(
        cls, model: Path, device: str, captions: list[str], per_prompt: int, seed: int, stream: str = "noise"
    ) -> Drawer:
        """Load a model and embed ``captions``, ``per_prompt`` items each."""
        loaded = handle.load(model, device)
        embedded = loaded.base.embed([*captions, ""])
        conditions = embedded[:-1].repeat_interleave(per_prompt, dim=0)
        return cls(loaded, conditions, embedded[-1:], len(conditions), seed, device, stream)

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
        return chunked(lambda x, c, i: self._draw(trial, times, x, c, i), CHUNK, noise, self.conditions, items)

    def times(self, trial: Trial) -> list[float] | None:
        """Where the trial's steps begin; None where its solver, or the windows, place them (trailing)."""
        if isinstance(trial.spacing, list):
            return trial.spacing
        if trial.spacing == "trailing":
            return None
        return spacing.times(trial.spacing, trial.steps, self.model.base.schedule)

    def _draw(self, trial: Trial, times: list[float] | None, x: Tensor, conditions: Tensor, items: Tensor) -> Tensor:
        network = self.model.base.network(self.model.unet)
        if trial.scheduler is not None:
            added = [generator(self.seed, f"re{self.stream}-{trial.stream}", item) for item in items.tolist()]
            field = guided(network, conditions, self.null, trial.guidance)
            config = self.model.base.scheduler_config
            return schedulers.draw(trial.scheduler, trial.steps, config, field, x, added, times)
        flow = self.model.flow
        if flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        scales = each_window(trial.guidance, len(flow.windows))
        laid = flow.windows.steps(trial.steps) if times is None else spacing.window_steps(flow.windows, times)
        for k, steps in groupby(laid, key=lambda step: step.k):
            x = follow(guided(network, conditions, self.null, scales[k]), flow, x, steps)
        return x
