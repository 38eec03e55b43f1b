"""evaluate: every metric of a model's trials, with intervals, from files that are checked first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config import places
from perflow.config.rows import Evaluation
from perflow.errors import PerflowError
from perflow.loop import Step
from perflow.metrics import CLIP, LPIPS, NEEDS, flow, given, intervals
from perflow.metrics.given import Given
from perflow.metrics.judges import Judges
from perflow.metrics.looking import Viewer
from perflow.metrics.observed import (
    INDEPENDENT,
    TEACHER,
    Drawn,
    labels_wanted,
    load_extractor,
    measured,
    reference_of,
)
from perflow.metrics.trial import Trial

_FLOW = ("straightness", "teacher_straightness", "endpoint_error")


def evaluate(
    spec: Spec, samples: Path, teacher: Path, dataset: Path, extractor: Path, out: Path,
    clip: Path | None = None, lpips: Path | None = None, real: Path | None = None, device: str = "cpu",
) -> Iterator[Step]:  # fmt: skip
    """Measure all trials of the manifest ``samples``; write ``out``.

    ``teacher`` is the manifest of the base's samples (the same file, if the model is a base): a trial is
    compared with the teacher's samples from other noise, and item by item with those from its own noise.
    ``clip`` and ``lpips`` are the networks of those names in the row, for the one metric of each; ``real`` is the
    file of features that the row names in place of the data set's real images.
    A metric that is undefined for a trial (no prompt has two correct samples) is left out of its numbers.
    PerflowError if a file was altered, or if the manifests do not belong together.
    """
    row = Evaluation.model_validate(spec.row)
    drawn, shown = Drawn.read(samples), Drawn.read(teacher)
    references = _check(row, drawn, shown)
    features = out.parent.with_name(places.FEATURES.name)
    network, about = load_extractor(row.extractor, extractor, device)
    known, replaced = _given(row, real), {}
    if known is not None:
        known = known.by(network, about, row.given.made_by)
        replaced = {"real": {"name": known.path.name} | known.described()}
    # one that others trained is large: every model would look at the teacher's images again
    viewer = Viewer(network, device, about["sha256"], features if "weights" in about else None)
    judges = Judges.load({CLIP: (row.clip, clip), LPIPS: (row.lpips, lpips)}, device, features)
    wanted = labels_wanted(drawn, network.values)
    classes = getattr(network, "classify", None)
    groups = intervals.deal(drawn.units, row.groups)
    teachers = {
        teacher: {stream: shown.observe(name, viewer, groups) for stream, name in streams.items()}
        for teacher, streams in references.items()
    }
    dimensions = next(iter(next(iter(teachers.values())).values())).features.shape[1]
    reference, accuracy = reference_of(dataset, row.split, viewer, known, dimensions)

    trials: dict[str, Any] = {}
    for name, entry in drawn.trials.items():
        streams = teachers[entry.get("teacher")]
        same, other = (streams[stream] for stream in sorted(streams, key=lambda s: s != entry["stream"]))
        samples_seen = drawn.observe(name, viewer, groups)
        judged = judges.judged(drawn, drawn.images(name)) if judges.networks else {}
        trial = Trial(samples_seen, same, other, reference, wanted, classes, **judged)
        trials[name] = {key: entry[key] for key in ("solver", "steps", "nfe", "guidance")}
        trials[name] |= {"searched": entry["searched"]} if "searched" in entry else {}
        trials[name]["metrics"] = measured(trial, row.metrics, row.confidence)
        yield Step("evaluate", len(trials), len(drawn.trials))

    with artifacts.understood(samples, "a manifest of samples"):
        measured_flow = _flow(drawn, row)
    found = {"spec": spec.hash, "model": row.model, "extractor": about | accuracy, "trials": trials}
    beside = {"networks": judges.about} if judges.about else {}
    artifacts.write_json(out, found | beside | replaced | {"flow": measured_flow})


def _given(row: Evaluation, path: Path | None) -> Given | None:
    """The features that stand for real images, if the row names any; PerflowError if the file is another, or if a
    metric asks for more than it holds."""
    if (row.given is None) != (path is None):
        said = "none was given" if path is None else f"the row names none, and {path} was given"
        raise PerflowError(f"--real: goes with a row that names features of real images; {said}")
    if row.given is None or path is None:
        return None
    found = given.read(path, row.given.sha256)
    asking = [metric for metric in row.metrics if "each_real" in NEEDS.get(metric, ())]
    if found.moments and asking:
        raise PerflowError(f"{path}: holds a mean and a covariance; {asking[0]} needs the features of each image")
    return found


def _check(row: Evaluation, drawn: Drawn, shown: Drawn) -> dict[float | None, dict[int, str]]:
    """Refuse manifests that do not belong together; return each teacher's two trials by their stream.

    Only teachers that a trial is held against; None is the study's own.
    """
    for part, expected in ((drawn, row.model), (shown, row.base)):
        if part.content["model"] != expected:
            found = part.content["model"]
            raise PerflowError(f"{part.path}: holds samples of '{found}', not of '{expected}'")
    for key in ("prompts", "per_prompt"):
        if drawn.content[key] != shown.content[key]:
            raise PerflowError(f"{drawn.path} and {shown.path}: drawn for different {key}; run again")
    found = {}
    for teacher in dict.fromkeys(entry.get("teacher") for entry in drawn.trials.values()):
        names = [name if teacher is None else f"{name}-w{teacher:g}" for name in (TEACHER, INDEPENDENT)]
        absent = [name for name in names if name not in shown.trials]
        if absent:
            raise PerflowError(f"{shown.path}: no trial {', '.join(absent)}; there are {', '.join(shown.trials)}")
        found[teacher] = {shown.trials[name]["stream"]: name for name in names}
        if len(found[teacher]) < 2:
            raise PerflowError(f"{shown.path}: '{names[0]}' and '{names[1]}' have the same noise")
    for name, entry in drawn.trials.items():
        streams = found[entry.get("teacher")]
        if entry["stream"] not in streams:
            stream, valid = entry["stream"], sorted(streams)
            raise PerflowError(f"{drawn.path}: trial '{name}' has noise stream {stream}, the teacher {valid}")
    return found


def _flow(drawn: Drawn, row: Evaluation) -> dict[str, Any] | None:
    """Straightness and end-point error of each window; groups are dealt anew, for they cover fewer items."""
    entry = drawn.content["flow"]
    if entry is None:
        return None
    tensors = artifacts.tensors_beside(drawn.path, entry, "items", *_FLOW)
    _, prompts = np.unique(drawn.units[tensors["items"].numpy()], return_inverse=True)
    groups = intervals.deal(prompts, row.groups)
    found = {"edges": entry["edges"]}
    for name in _FLOW:
        windows = flow.per_window(tensors[name].double().numpy(), groups)
        found[name] = [intervals.interval(window, row.confidence)._asdict() for window in windows]
    if "starts" in entry:
        states = artifacts.tensors_beside(drawn.path, entry["starts"], "own", "taught")
        own, taught = (states[name].double().numpy() for name in ("own", "taught"))
        gaps = flow.start_gaps(own, taught, np.arange(len(own)) % row.groups)
        found["start_gap"] = [intervals.interval(window, row.confidence)._asdict() for window in gaps]
    return found
