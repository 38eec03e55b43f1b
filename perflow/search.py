"""Where a solver's steps had best lie: searched for on development samples, never on those that are shown.

Candidates are the named spacings, then what comes of bending the best one so far, all drawn for the same
development prompts from the same development noise, and compared with the teacher's samples from other noise.
Every model is offered the same: a base, or a student without windows, any times; a student on its windows the
positions inside them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from perflow.config.rows import SearchRecipe, Trial
from perflow.core import SPACINGS, WINDOW, spacing
from perflow.metrics import METRICS
from perflow.metrics.looking import Looks
from perflow.metrics.observed import load_extractor
from perflow.metrics.trial import Images
from perflow.metrics.trial import Trial as Measured
from perflow.models.drawer import Drawer

Tried = dict[str, tuple[float, list[float]]]
"""Name of a candidate -> its distance to the teacher, its times."""
_STREAM = "development"
_BENDS, _WIDE = (0.8, 1.25), (0.6, 1.6)


@dataclass(frozen=True)
class Search:
    """A model and its teacher on development prompts, and what tells their samples apart."""

    recipe: SearchRecipe
    drawer: Drawer
    teacher: Drawer
    references: Mapping[float | None, Trial]
    """``Trial.teacher`` -> how that teacher is drawn, from other noise than the model's."""
    network: Looks
    _shown: dict[float | None, Images] = field(default_factory=dict)

    @classmethod
    def load(
        cls, recipe: SearchRecipe, prompts: list[str], model: Path, teacher: Path,
        references: Mapping[float | None, Trial], extractor: tuple[str, Path], device: str, seed: int,
    ) -> Search:  # fmt: skip
        """``prompts`` are none of those that are shown; ``extractor`` is a feature network's name and file."""
        drawer, shown = (
            Drawer.load(handle, device, prompts, recipe.per_prompt, seed, stream=_STREAM) for handle in (model, teacher)
        )
        return cls(recipe, drawer, shown, references, load_extractor(*extractor, device)[0])

    def best(self, trial: Trial) -> dict[str, Any]:
        """The best steps found for a trial: their name and times, the distance of every candidate (None: not finite),
        the network evaluations that all of them cost."""
        tried: Tried = {}
        self._try(trial, self._candidates(trial), tried)
        for _ in range(self.recipe.rounds):
            name, (_, times) = min(tried.items(), key=lambda item: item[1][0])
            bent = {f"{name}^{power:g}": spacing.warped(times, power, self._edges(trial)) for power in _BENDS}
            if not self._try(trial, bent, tried):
                break
        name, (_, times) = min(tried.items(), key=lambda item: item[1][0])
        distances = {name: value if math.isfinite(value) else None for name, (value, _) in tried.items()}
        evaluations = trial.nfe * self.drawer.items * len(tried)
        return {"name": name, "times": times, "metric": self.recipe.metric, "tried": distances,
                "items": self.drawer.items, "evaluations": evaluations}  # fmt: skip

    def _try(
        self, trial: Trial, candidates: dict[str, list[float]], tried: dict[str, tuple[float, list[float]]]
    ) -> int:
        """Measure the candidates that are not there yet; how many there were."""
        seen = {_rounded(times) for _, times in tried.values()}
        new = {}
        for name, times in candidates.items():
            if _rounded(times) not in seen:
                seen.add(_rounded(times))
                new[name] = times
        for name, times in new.items():
            tried[name] = self._distance(trial.model_copy(update={"spacing": times})), times
        return len(new)

    def _edges(self, trial: Trial) -> tuple[float, ...]:
        return self.drawer.model.flow.windows.edges if trial.solver == WINDOW else (1.0, 0.0)

    def _candidates(self, trial: Trial) -> dict[str, list[float]]:
        if trial.solver == WINDOW:
            even = spacing.window_times(self.drawer.model.flow.windows, trial.steps)
            bent = {f"trailing^{power:g}": spacing.warped(even, power, self._edges(trial)) for power in _WIDE}
            return {"trailing": even} | bent
        schedule = self.drawer.model.base.schedule
        return {name: spacing.times(name, trial.steps, schedule) for name in SPACINGS}

    def _distance(self, trial: Trial) -> float:
        latents = self.drawer.draw(trial, self.drawer.noise(0))
        if not bool(torch.isfinite(latents).all()):
            return math.inf
        shown = self._teacher(trial.teacher)
        images = Images(*self.network.observe(self.drawer.model.base.decode(latents)))
        return float(resolve_name(METRICS[self.recipe.metric])(Measured(images, shown, shown, shown, {})).value)

    def _teacher(self, guidance: float | None) -> Images:
        if guidance not in self._shown:
            latents = self.teacher.draw(self.references[guidance], self.teacher.noise(1))
            self._shown[guidance] = Images(*self.network.observe(self.teacher.model.base.decode(latents)))
        return self._shown[guidance]


def _rounded(times: list[float]) -> tuple[float, ...]:
    return tuple(round(t, 6) for t in times)
