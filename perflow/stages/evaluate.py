"""evaluate: every metric of a model's trials, with intervals, from files that are checked first."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Evaluation
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.loop import Step
from perflow.metrics import METRICS, features, flow, intervals
from perflow.metrics.trial import Images, Trial

TEACHER, INDEPENDENT = "teacher", "teacher-2"
"""The base's trials that stand for the teacher: with the noise of every trial, and with other noise."""

_FLOW = ("straightness", "teacher_straightness", "endpoint_error")


@dataclass(frozen=True)
class Drawn:
    """A samples manifest and the files beside it."""

    path: Path
    content: dict[str, Any]

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """Trials by name, as the manifest describes them."""
        return self.content["trials"]

    @property
    def prompts(self) -> np.ndarray:
        """Index [N] of each item's prompt."""
        return np.arange(len(self.content["prompts"])).repeat(self.content["per_prompt"])

    def file(self, entry: dict[str, str]) -> Path:
        """A file the manifest names, verified."""
        return artifacts.verify_file(self.path.parent / entry["file"], entry["sha256"], self.path)

    def observe(self, trial: str, network: features.Extractor, groups: np.ndarray) -> Images:
        """A trial's samples as the extractor sees them, with their latents."""
        entry = self.trials[trial]
        archive = artifacts.read_archive(self.file(entry["images"]))
        latents = artifacts.read_tensors(self.file(entry["latents"]))[0]["latents"].numpy()
        if not len(archive) == len(latents) == len(self.prompts):
            raise PerflowError(
                f"{self.path}: trial '{trial}' has {len(archive)} images and {len(latents)} latents for"
                f" {len(self.prompts)} items of its prompts; delete {self.path} and run again"
            )
        pixels = np.stack([store.decode(data) for data in archive.values()])
        return Images(*network.observe(pixels), latents, self.prompts, groups)


def evaluate(spec: Spec, samples: Path, teacher: Path, dataset: Path, extractor: Path, out: Path) -> Iterator[Step]:
    """Measure all trials of the manifest ``samples``; write ``out``.

    ``teacher`` is the manifest of the base's samples (the same file, if the model is a base): a trial is
    compared with the teacher's samples from other noise, and item by item with those from its own noise.
    A metric that is undefined for a trial (no prompt has two correct samples) is left out of its numbers.
    PerflowError if a file was altered, or if the manifests do not belong together.
    """
    row = Evaluation.model_validate(spec.row)
    drawn, shown = (Drawn(path, artifacts.read_json(path)) for path in (samples, teacher))
    streams = _check(row, drawn, shown)
    network, about = _extractor(row.extractor, extractor)
    wanted = _wanted(drawn, network.values)
    groups = intervals.deal(drawn.prompts, row.groups)
    real = Images(*network.observe(store.images(store.load(dataset, row.split))))
    teachers = {stream: shown.observe(name, network, groups) for stream, name in streams.items()}

    trials: dict[str, Any] = {}
    for name, entry in drawn.trials.items():
        same, other = (teachers[stream] for stream in sorted(streams, key=lambda s: s != entry["stream"]))
        trial = Trial(drawn.observe(name, network, groups), same, other, real, wanted)
        trials[name] = {key: entry[key] for key in ("solver", "steps", "nfe", "guidance")}
        trials[name]["metrics"] = _measure(trial, row)
        yield Step("evaluate", len(trials), len(drawn.trials))

    measured = {"spec": spec.hash, "model": row.model, "extractor": about, "trials": trials}
    artifacts.write_json(out, measured | {"flow": _flow(drawn, row)})


def _extractor(name: str, path: Path) -> tuple[features.Extractor, dict[str, Any]]:
    """The feature network, and how the results name it."""
    tensors, header = artifacts.read_tensors(path)
    if "architecture" not in header:
        raise PerflowError(f"{path}: not an extractor; one is made with perflow extractor")
    about = {"name": name, "sha256": artifacts.sha256_file(path), "accuracy": header["accuracy"]}
    return features.restore(tensors, header["architecture"]), about


def _check(row: Evaluation, drawn: Drawn, shown: Drawn) -> dict[int, str]:
    """Refuse manifests that do not belong together; return the teacher's two trials by their stream."""
    for part, expected in ((drawn, row.model), (shown, row.base)):
        if part.content["model"] != expected:
            found = part.content["model"]
            raise PerflowError(f"{part.path}: holds samples of '{found}', not of '{expected}'")
    for key in ("prompts", "per_prompt"):
        if drawn.content[key] != shown.content[key]:
            raise PerflowError(f"{drawn.path} and {shown.path}: drawn for different {key}; run again")
    absent = [name for name in (TEACHER, INDEPENDENT) if name not in shown.trials]
    if absent:
        raise PerflowError(f"{shown.path}: no trial {', '.join(absent)}; there are {', '.join(shown.trials)}")
    streams = {shown.trials[name]["stream"]: name for name in (TEACHER, INDEPENDENT)}
    if len(streams) < 2:
        raise PerflowError(f"{shown.path}: '{TEACHER}' and '{INDEPENDENT}' have the same noise")
    for name, entry in drawn.trials.items():
        if entry["stream"] not in streams:
            stream, valid = entry["stream"], sorted(streams)
            raise PerflowError(f"{drawn.path}: trial '{name}' has noise stream {stream}, the teacher {valid}")
    return streams


def _wanted(drawn: Drawn, values: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Labels [N] that the prompts specify, by the extractor's attributes; -1 where a prompt says nothing."""
    prompts = drawn.content["prompts"]
    wanted = {name: np.full(len(prompts), -1) for name in values}
    for number, prompt in enumerate(prompts):
        for name, value in prompt.items():
            if name == "text" or value is None:
                continue
            if value not in values.get(name, ()):
                known = ", ".join(values.get(name, values))
                raise PerflowError(
                    f"{drawn.path}: prompt '{prompt['text']}' asks for {name} '{value}', which the extractor"
                    f" does not know; it knows {known}"
                )
            wanted[name][number] = values[name].index(value)
    return {name: labels.repeat(drawn.content["per_prompt"]) for name, labels in wanted.items()}


def _measure(trial: Trial, row: Evaluation) -> dict[str, dict[str, Any]]:
    measured = {}
    for name in row.metrics:
        found = pkgutil.resolve_name(METRICS[name])(trial)
        if np.isfinite(found.value) and np.isfinite(found.replicates).all():
            bounds = intervals.interval(found, row.confidence)._asdict()
            measured[name] = bounds | {"replicates": found.replicates.tolist()}
    return measured


def _flow(drawn: Drawn, row: Evaluation) -> dict[str, Any] | None:
    """Straightness and end-point error of each window; groups are dealt anew, for they cover fewer items."""
    entry = drawn.content["flow"]
    if entry is None:
        return None
    tensors, _ = artifacts.read_tensors(drawn.file(entry))
    _, prompts = np.unique(drawn.prompts[tensors["items"].numpy()], return_inverse=True)
    groups = intervals.deal(prompts, row.groups)
    measured = {"edges": entry["edges"]}
    for name in _FLOW:
        windows = flow.per_window(tensors[name].double().numpy(), groups)
        measured[name] = [intervals.interval(window, row.confidence)._asdict() for window in windows]
    return measured
