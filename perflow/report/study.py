"""What the study names: its methods (a model without its seed, and a solver), their labels, its metrics.

Everything here comes from results/specs/study.json. Nothing is found by looking at the disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.core import BEST, RK45, SDE, WINDOW
from perflow.metrics.naming import called
from perflow.models import SCHEDULERS

METRICS = {
    "fd_teacher": "FD-{} to teacher",
    "kid_teacher": "KID-{} to teacher",
    "fd_real": "FD-{} to real",
    "kid_real": "KID-{} to real",
    "precision": "precision ({})",
    "recall": "recall ({})",
    "density": "density ({})",
    "coverage": "coverage ({})",
    "diversity": "diversity ({}, teacher = 1)",
    "vendi": "Vendi score within a prompt ({}, teacher = 1)",
    "inception_score": "IS-{} (no splits)",
    "prompt_accuracy": "prompt accuracy ({})",
    "clip_score": "CLIP score",
    "lpips_diversity": "LPIPS within a prompt",
    "teacher_mse": "relative latent MSE to teacher, same noise",
    "energy_real": "energy distance to data",
    "transport_square": "transport cost E|x1-x0|²",
    "transport_norm": "transport cost E|x1-x0|",
    "transport_fourth": "transport cost E|x1-x0|⁴",
    "transport_square_random": "E|x1-x0|² of the random coupling",
    "transport_norm_random": "E|x1-x0| of the random coupling",
    "transport_fourth_random": "E|x1-x0|⁴ of the random coupling",
    "crossing": "crossing probability",
    "crossing_random": "crossing probability of the random coupling",
    "straightness": "straightness S",
    "evaluations": "network evaluations of a sample, mean",
}
"""Order and names; {} is the extractor, since a distance in other features is another quantity."""


_SOLVERS = {WINDOW: "Euler", RK45: "RK45", SDE: "reverse SDE"}
"""How the solvers of flows are called."""


@dataclass(frozen=True)
class Arm:
    """One method at one number of steps: the same trial of every training seed of a model."""

    key: str
    """Model name without its seed."""
    base: str
    kind: str
    entry: str
    label: str
    windows: int | None
    windowed: bool
    method: str | None
    path: str | None
    prediction: str | None
    starts: str | None
    ends: str | None
    """``data`` of a student that no teacher taught: its pairs end at data."""
    guidance_mode: str | None
    trial: str
    solver: str
    steps: int
    """0 of a solver that decides as it goes."""
    nfe: int
    """Network evaluations of a sample; of such a solver the mean, once it was measured."""
    guidance: float | list[float]
    """One number, or one a window."""
    stream: int
    models: tuple[str, ...]
    """Names of the models, one a training seed, in the order of the seeds."""
    teacher: float | None
    """Guidance of the teacher it is held against; None: the study's."""
    spacing: str | list[float]
    recipe: dict[str, Any]
    """How the model was made, but for its axes: what two entries must share to differ in one thing only."""

    @property
    def reference(self) -> bool:
        """A trial that stands for the teacher."""
        return is_reference(self.kind, self.trial)


def is_reference(kind: str, trial: str) -> bool:
    """Whether a trial of a model of this kind stands for the teacher."""
    return kind == "base" and trial.startswith("teacher")


def read_study(path: str | Path) -> dict[str, Any]:
    """results/specs/study.json; PerflowError if it is not one."""
    what = "a study summary, which the workflow writes"
    return artifacts.read_object(path, what, name=str, settings=dict, models=list, extractor=str)


def arms(study: dict[str, Any], specs: str | Path) -> list[Arm]:
    """Every method at every number of steps: the bases' trials first, then the entries as the study lists them.

    ``specs`` is the folder of the rows' specs (results/specs), from which the recipes are read.
    """
    grouped: dict[tuple[str, str], list[dict]] = {}
    trials: dict[tuple[str, str], dict] = {}
    for model in study["models"]:
        for trial in model["trials"]:
            grouped.setdefault((model_key(model), trial["name"]), []).append(model)
            trials[model_key(model), trial["name"]] = trial
    several = _entries_with_several(study)
    recipes = {model_key(model): _recipe(Path(specs), model) for model in study["models"]}
    return [_arm(key, models, trials[key, name], several, recipes[key]) for (key, name), models in grouped.items()]


def model_key(model: dict[str, Any]) -> str:
    """A model's name without its training seed."""
    return model["name"].removesuffix(f"-s{model['seed']}") if model["kind"] == "student" else model["name"]


def _arm(key: str, models: list[dict], trial: dict, several: set[tuple[str, str]], recipe: dict[str, Any]) -> Arm:
    first = models[0]
    common = {
        name: first.get(name)
        for name in (
            "base", "kind", "entry", "windows", "windowed", "method", "path", "prediction", "starts", "ends",
            "guidance_mode",
        )
    }  # fmt: skip
    return Arm(
        key=key,
        label=label(first, trial, (first["base"], first["entry"]) in several),
        trial=trial["name"],
        solver=trial["solver"],
        steps=trial["steps"],
        nfe=trial["nfe"],
        guidance=trial["guidance"],
        stream=trial["stream"],
        teacher=trial.get("teacher"),
        spacing=trial.get("spacing", "trailing"),
        models=tuple(model["name"] for model in sorted(models, key=lambda model: model["seed"])),
        recipe=recipe,
        **common,
    )


def _entries_with_several(study: dict) -> set[tuple[str, str]]:
    """(base, entry) that stand for models with different windows."""
    keys: dict[tuple[str, str], set[str]] = {}
    for model in study["models"]:
        keys.setdefault((model["base"], model["entry"]), set()).add(model_key(model))
    return {pair for pair, found in keys.items() if len(found) > 1}


def label(model: dict[str, Any], trial: dict[str, Any], several: bool) -> str:
    """A method's name in tables, without its number of steps (but for the teacher's, which defines it)."""
    solver = SCHEDULERS[trial["solver"]].label if trial["solver"] in SCHEDULERS else _SOLVERS[trial["solver"]]
    found = _label(model, trial, several, solver) + _spaced(trial.get("spacing", "trailing"))
    return found if trial.get("teacher") is None else f"{found}, w={trial['teacher']:g}"


def _spaced(spacing: str | list[float]) -> str:
    if isinstance(spacing, list):
        return " at " + " ".join(f"{t:g}" for t in spacing)
    return {"trailing": "", BEST: ", searched steps"}.get(spacing, f", {spacing.replace('_', '-')} steps")


def _label(model: dict[str, Any], trial: dict[str, Any], several: bool, solver: str) -> str:
    if model["kind"] == "base":
        if not is_reference(model["kind"], trial["name"]):
            return solver
        return f"Teacher, {solver}" + (", other noise" if trial["stream"] else "")
    name = model["label"]
    if model["windowed"] or several:
        name += f", K={model['windows']}"
        if model["edges"] and not _equal(model["edges"]):
            name += " at " + " ".join(f"{edge:g}" for edge in model["edges"][1:-1])
    return name if trial["solver"] == WINDOW else f"{name} + {solver}"


def _equal(edges: list[float]) -> bool:
    width = 1 / (len(edges) - 1)
    return all(abs(a - b - width) < 1e-6 for a, b in zip(edges, edges[1:], strict=False))


def _recipe(specs: Path, model: dict[str, Any]) -> dict[str, Any]:
    """How a student was made, with its pairs written out; base, windows and seed are left out, they are axes."""
    if model["kind"] == "base":
        return {}
    row = artifacts.read_spec(specs / "students" / f"{model['name']}.json").row
    if row["pairs"] is None:  # released weights
        return {name: row[name] for name in ("path", "prediction", "source")}
    pairs = artifacts.read_spec(specs / "pairs" / f"{row['pairs']}.json").row
    recipe = {name: row[name] for name in ("path", "prediction", "method", "training", "start")}
    recipe["rank"] = row.get("rank")
    axes = ("base", "dataset", "edges", "window_steps")
    return recipe | {"pairs": {name: value for name, value in pairs.items() if name not in axes}}


def leading(measured: Iterable[str]) -> str | None:
    """The metric that stands for quality: the first of :data:`METRICS` that was measured, else any."""
    found = set(measured)
    return next((name for name in METRICS if name in found), min(found, default=None))


def features(study: dict[str, Any]) -> str:
    """The extractor that a study measures with, as the names of metrics say it."""
    entry = study["settings"].get("extractors", {}).get(study["extractor"], {})
    return called(study["extractor"], "standardise" in entry)


def metric_name(metric: str, extractor: str) -> str:
    """How a metric is named in tables and figures: after the network whose features it uses."""
    return METRICS.get(metric, metric).format(extractor)
