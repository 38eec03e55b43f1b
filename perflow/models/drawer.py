"""Draw latents from any model: on its windows, or with a training-free scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.core.fields import student_field
from perflow.core.guidance import guided
from perflow.core.rng import normal
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
    items: int
    seed: int
    device: str

    @classmethod
    def load(cls, model: Path, device: str, captions: list[str], per_prompt: int, seed: int) -> Drawer:
        """Load a model and embed ``captions``, ``per_prompt`` items each."""
        loaded = handle.load(model, device)
        embedded = loaded.base.embed([*captions, ""])
        conditions = embedded[:-1].repeat_interleave(per_prompt, dim=0)
        return cls(loaded, conditions, embedded[-1:], len(conditions), seed, device)

    def noise(self, stream: int) -> Tensor:
        """Initial noise of all items, [N, *latent]."""
        return normal(self.model.base.latent_shape, self.seed, f"noise-{stream}", range(self.items)).to(self.device)

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor) -> Tensor:
        """Latents [N, *latent] of a trial."""
        return chunked(lambda x, c: self._draw(trial, x, c), _CHUNK, noise, self.conditions)

    def _draw(self, trial: Trial, x: Tensor, conditions: Tensor) -> Tensor:
        network = guided(self.model.base.network(self.model.unet), conditions, self.null, trial.guidance)
        if trial.scheduler is not None:
            return schedulers.draw(trial.scheduler, trial.steps, self.model.base.scheduler_config, network, x)
        flow = self.model.flow
        if flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        says = student_field(network, flow)
        for k, u_from, u_to in flow.windows.steps(trial.steps):
            x = flow.step(x, says(x, k, u_from), k, u_from, u_to)
        return x
