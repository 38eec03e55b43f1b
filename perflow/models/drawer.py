"""Draw latents from any model: on its windows, as a flow, or with a training-free scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perflow.core import RK45, SDE, spacing
from perflow.core.chunks import MOST, chunked
from perflow.core.condition import take
from perflow.core.fields import Denoiser, course, velocity_field
from perflow.core.grid import each_window
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.velocity import reverse_sde, rk45
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

    def noise(self, stream: int, items: range | None = None) -> Tensor:
        """Initial noise of items, all or those given, [N, *latent]."""
        items = range(self.items) if items is None else items
        return self.model.noise(self.seed, f"{self.stream}-{stream}", items).to(self.device)

    def blocks(self) -> list[range]:
        """The items in blocks of whole chunks: drawn one after the other they are as drawn at once.

        On a CPU one chunk each, for that may take seconds; a GPU is asked for some 128 items before it is waited for.
        """
        chunk = self.model.base.chunk
        size = chunk if self.device == "cpu" else chunk * max(1, MOST // chunk)
        return [range(first, min(first + size, self.items)) for first in range(0, self.items, size)]

    @torch.inference_mode()
    def draw(self, trial: Trial, noise: Tensor, first: int = 0) -> Tensor:
        """Latents [N, *latent] of a trial, whose spacing is known (not ``best``), of the items from ``first`` on that
        ``noise`` [N, *latent] is of. Noise that a solver adds on its way is a function of (seed, stream, item, step),
        so it does not depend on the chunks."""
        times = self.times(trial)
        return self._chunked(lambda *rows: self._course(trial, times, *rows)[-1], noise, first)

    @torch.inference_mode()
    def trace(self, trial: Trial, noise: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Paths [N, n + 1, *latent] of a trial, of its start and the state after each step, and evaluations [N].

        Of a solver that decides as it goes: start and end. Items as of ``draw``.
        """
        if trial.solver != RK45:
            times = self.times(trial)
            paths = self._chunked(lambda x, i: torch.stack([x, *self._course(trial, times, x, i)], dim=1), noise, first)
            return paths, torch.full((len(noise),), trial.nfe)
        # one tensor a chunk: latents, and a last column for the evaluations
        rows = self._chunked(
            lambda *given: torch.cat([part.flatten(1) for part in self._adaptive(trial, *given)], dim=1), noise, first
        )
        ends = rows[:, :-1].reshape(noise.shape)
        return torch.stack([noise, ends], dim=1), rows[:, -1].round().long()

    def times(self, trial: Trial) -> list[float] | None:
        """Where the trial's steps begin; None where its solver, or the windows, place them (trailing)."""
        if isinstance(trial.spacing, list):
            return trial.spacing
        if trial.spacing == "trailing":
            return None
        return spacing.times(trial.spacing, trial.steps, self.model.base.schedule)

    def _chunked(self, function: Callable[..., Tensor], noise: Tensor, first: int) -> Tensor:
        return chunked(function, self.model.base.chunk, noise, torch.arange(first, first + len(noise)))

    def _says(self, items: Tensor) -> Callable[[float], Denoiser]:
        """Guidance -> the network under the conditions of ``items``."""
        conditions, null = take(self.conditions, items), self.away(items)
        return lambda guidance: self.model.says(conditions, null, guidance)

    def _course(self, trial: Trial, times: list[float] | None, x: Tensor, items: Tensor) -> Sequence[Tensor]:
        """The states of a trial, at least the last."""
        base, says = self.model.base, self._says(items)
        if trial.scheduler is not None or trial.solver == SDE:
            added = [generator(self.seed, f"re{self.stream}-{trial.stream}", item) for item in items.tolist()]
            field = says(trial.guidance)
            if trial.scheduler is not None:
                return [schedulers.draw(trial.scheduler, trial.steps, base.scheduler_config, field, x, added, times)]
            even = [1 - i / trial.steps for i in range(trial.steps + 1)]
            velocity = velocity_field(field, base.flow, 0)

            def renoise(step: int) -> Tensor:
                return torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in added]).to(x)

            return reverse_sde(velocity, x, even, base.schedule, base.config["start_scale"], renoise)[1:]
        if trial.solver == RK45:
            return [self._adaptive(trial, x, items)[0]]
        flow, states = self._flow(), [x]
        scales = each_window(trial.guidance, len(flow.windows))
        laid = flow.windows.steps(trial.steps) if times is None else spacing.window_steps(flow.windows, times)
        for k, steps in groupby(laid, key=lambda step: step.k):
            states += course(says(scales[k]), flow, states[-1], steps)
        return states[1:]

    def _adaptive(self, trial: Trial, x: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Where x ends by RK45, window by window, and evaluations [B, 1] as fp32."""
        flow, says, calls = self._flow(), self._says(items), torch.zeros(len(x), dtype=torch.int64)
        scales, edges = each_window(trial.guidance, len(flow.windows)), flow.windows.edges
        for k, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
            x, more = rk45(velocity_field(says(scales[k]), flow, k), x, start, end)
            calls += more * self.model.nfe(scales[k])
        return x, calls[:, None].to(x)

    def _flow(self) -> PiecewiseFlow:
        if self.model.flow is None:
            raise PerflowError(f"{self.model.name}: has no windows; its solver must be one of {', '.join(SCHEDULERS)}")
        return self.model.flow
