"""Draw latents from any model: on its windows, as a flow, or with a training-free scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core import RK45, SDE
from perflow.core.chunks import chunked
from perflow.core.fields import course, velocity_field
from perflow.core.grid import each_window
from perflow.core.guidance import guided, nfe
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.velocity import reverse_sde, rk45
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
        return self.model.noise(self.seed, f"noise-{stream}", range(self.items)).to(self.device)

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor) -> Tensor:
        """Latents [N, *latent] of a trial. Noise that a solver adds on its way is a function of (seed, stream, item,
        step), so it does not depend on the chunks."""
        return self._chunked(lambda *rows: self._course(trial, *rows)[-1], noise)

    @torch.inference_mode()
    def trace(self, trial: Trial, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Paths [N, n + 1, *latent] of a trial, of its start and the state after each step, and evaluations [N].

        Of a solver that decides as it goes: start and end.
        """
        if trial.solver != RK45:
            paths = self._chunked(lambda *rows: torch.stack([rows[0], *self._course(trial, *rows)], dim=1), noise)
            return paths, torch.full((len(noise),), trial.nfe)
        # one tensor a chunk: latents, and a last column for the evaluations
        rows = self._chunked(
            lambda *given: torch.cat([part.flatten(1) for part in self._adaptive(trial, *given)], dim=1), noise
        )
        ends = rows[:, :-1].reshape(noise.shape)
        return torch.stack([noise, ends], dim=1), rows[:, -1].round().long()

    def _chunked(self, function: Callable[..., Tensor], noise: Tensor) -> Tensor:
        return chunked(function, _CHUNK, noise, self.conditions, torch.arange(self.items))

    def _course(self, trial: Trial, x: Tensor, conditions: Tensor, items: Tensor) -> Sequence[Tensor]:
        """The states of a trial, at least the last."""
        base, network = self.model.base, self.model.base.network(self.model.unet)
        if trial.scheduler is not None or trial.solver == SDE:
            added = [generator(self.seed, f"renoise-{trial.stream}", item) for item in items.tolist()]
            field = guided(network, conditions, self.null, trial.guidance)
            if trial.scheduler is not None:
                return [schedulers.draw(trial.scheduler, trial.steps, base.scheduler_config, field, x, added)]
            times = [1 - i / trial.steps for i in range(trial.steps + 1)]
            velocity = velocity_field(field, base.flow, 0)

            def renoise(step: int) -> Tensor:
                return torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in added]).to(x)

            return reverse_sde(velocity, x, times, base.schedule, base.config["start_scale"], renoise)[1:]
        if trial.solver == RK45:
            return [self._adaptive(trial, x, conditions, items)[0]]
        flow, states = self._flow(), [x]
        scales = each_window(trial.guidance, len(flow.windows))
        for k, steps in groupby(flow.windows.steps(trial.steps), key=lambda step: step.k):
            states += course(guided(network, conditions, self.null, scales[k]), flow, states[-1], steps)
        return states[1:]

    def _adaptive(self, trial: Trial, x: Tensor, conditions: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Where x ends by RK45, window by window, and evaluations [B, 1] as fp32."""
        flow, calls = self._flow(), torch.zeros(len(x), dtype=torch.int64)
        scales, edges = each_window(trial.guidance, len(flow.windows)), flow.windows.edges
        for k, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            network = guided(self.model.base.network(self.model.unet), conditions, self.null, scales[k])
            x, more = rk45(velocity_field(network, flow, k), x, start, end)
            calls += more * nfe(scales[k])
        return x, calls[:, None].to(x)

    def _flow(self) -> PiecewiseFlow:
        if self.model.flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        return self.model.flow
