"""Rectified flow on the plane: its paths drawn, and the three guarantees of arXiv 2209.03003 as numbers.

Everything is found from the study: a base trained from data is the 1-rectified flow, and the students of one window
that rest on each other by reflow are the 2-, 3-, … rectified flows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from perflow import artifacts
from perflow.config.splits import split_row
from perflow.core import SDE, WINDOW
from perflow.report.data import Report
from perflow.report.drawing import DARK, GREY, colour, style
from perflow.report.galleries import pictured
from perflow.report.html import Cell, Html, figure, table
from perflow.report.reading import difference
from perflow.report.study import metric_name
from perflow.report.words import count, listed, number, signed

_LINES, _DOTS = 150, 500
_COSTS = ("transport_norm", "transport_square", "transport_fourth")
_PATHS = {"straight": "rectified (straight)", "vp": "VP", "subvp": "sub-VP", "vp_constant": "VP, constant speed",
          "ve": "VE"}  # fmt: skip

Model = dict[str, Any]
"""A model as results/specs/study.json lists it."""


def flows(report: Report) -> list[str]:
    """Bases of points that were reflowed."""
    bases = [base["name"] for base in report.study["bases"]]
    return [base for base in bases if not pictured(report, base) and len(_chain(report, base)) > 1]


def _chain(report: Report, base: str) -> list[Model]:
    """The 1-, 2-, 3-, … rectified flow of a base, first training seeds."""
    models = [model for model in report.study["models"] if model["base"] == base and model["seed"] == 0]
    return [
        model
        for model in models
        if model["kind"] == "base" or (model["method"] == "piecewise_reflow" and model["windows"] == 1)
    ]


def _pieces(report: Report, base: str) -> list[Model]:
    """Students of several windows."""
    models = [model for model in report.study["models"] if model["base"] == base and model["seed"] == 0]
    return [model for model in models if (model["windows"] or 1) > 1]


def _name(report: Report, model: Model) -> str:
    if model["kind"] == "base":
        return "1-rectified flow"
    return f"{model['label']}, K={model['windows']}" if model["windows"] > 1 else model["label"]


def _finest(model: Model) -> str:
    """The trial of Euler's method with the most steps."""
    trials = [
        trial for trial in model["trials"] if trial["solver"] == WINDOW and not trial["name"].startswith("teacher")
    ]
    return max(trials, key=lambda trial: trial["steps"])["name"]


def _measured(report: Report, model: Model, trial: str) -> dict[str, Any]:
    """Metric -> estimate of a trial."""
    content = artifacts.read_json(report.results / "metrics" / f"{model['name']}.json")
    return content["trials"][trial]["metrics"]


def _paths(report: Report, model: Model, trial: str) -> numpy.ndarray:
    """[N, n + 1, 2], from start to end."""
    manifest = report.results / "samples" / model["name"] / "manifest.json"
    entry = artifacts.read_json(manifest)["trials"][trial]["latents"]
    return artifacts.tensors_beside(manifest, entry, "paths")["paths"].numpy()


def _real(report: Report, base: str) -> numpy.ndarray:
    """Real points [N, 2] of a base's data set, those that samples are measured with."""
    split, settings = report.study["settings"]["evaluation"]["split"], report.study["settings"]["bases"][base]
    manifest = report.results.parent / "data" / split_row(settings["dataset"], split) / "manifest.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library, about notebooks: nothing a reader can act on
        from perflow.datasets import store

        return store.items(store.load(manifest, split))


def _square(axes: Axes, reach: float) -> None:
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _inks(starts: numpy.ndarray) -> list[str]:
    """A colour for each start [N, 2], by the third of the circle it lies in."""
    angle = (numpy.arctan2(starts[:, 1], starts[:, 0]) - numpy.pi / 6) % (2 * numpy.pi)
    return [colour(int(third)) for third in angle // (2 * numpy.pi / 3)]


def _threads(axes: Axes, paths: numpy.ndarray, width: float = 0.6, lines: int = _LINES) -> None:
    """Some paths [N, n + 1, 2] as lines."""
    shown = paths[:lines]
    axes.add_collection(LineCollection(list(shown), colors=_inks(shown[:, 0]), linewidths=width, alpha=0.45))


def _dots(axes: Axes, points: numpy.ndarray, ink: str, size: float = 3.0) -> None:
    axes.scatter(*points[:_DOTS].T, s=size, color=ink, linewidths=0, alpha=0.75, zorder=3)


def trajectories(report: Report, base: str) -> Figure:
    """Above, what each flow pairs: straight lines from starts to ends. Below, the paths it goes.

    The first column is the independent coupling that the 1-rectified flow learns from; the last is PeRFlow, of the
    middle one of its numbers of windows.
    """
    chain, pieces = _chain(report, base), _pieces(report, base)
    models = [*chain, *pieces[len(pieces) // 2 :][:1]]
    real = _real(report, base)
    first = _paths(report, chain[0], _finest(chain[0]))
    starts = first[:, 0]
    reach = 1.08 * float(numpy.abs(numpy.concatenate([starts, real])).max())
    random = numpy.stack([starts, real[: len(starts)]], axis=1)
    with style():
        drawn = Figure(figsize=(2.5 * (len(models) + 1), 5.6))
        panels = drawn.subplots(2, len(models) + 1)
        _threads(panels[0, 0], random)
        share = _measured(report, chain[0], _finest(chain[0]))["crossing_random"]["value"]
        panels[0, 0].set_title(f"random coupling\ncrossing {_percent(share)}")
        panels[1, 0].set_title("start (grey) and data")
        for axes in panels[:, 0]:
            _dots(axes, starts, GREY)
            _dots(axes, real, DARK)
        for column, model in enumerate(models, start=1):
            trial = _finest(model)
            paths, found = _paths(report, model, trial), _measured(report, model, trial)
            _threads(panels[0, column], paths[:, [0, -1]])
            _threads(panels[1, column], paths)
            panels[0, column].set_title(f"{_name(report, model)}\ncrossing {_percent(found['crossing']['value'])}")
            panels[1, column].set_title(f"S = {number(found['straightness']['value'])}")
            for axes in panels[:, column]:
                _dots(axes, paths[:, 0], GREY)
                _dots(axes, paths[:, -1], DARK)
        for axes in panels.flat:
            _square(axes, reach)
        panels[0, 0].text(
            -0.06, 0.5, "coupling", rotation=90, transform=panels[0, 0].transAxes, ha="right", va="center"
        )
        panels[1, 0].text(-0.06, 0.5, "paths", rotation=90, transform=panels[1, 0].transAxes, ha="right", va="center")
        drawn.tight_layout()
    return drawn


def _percent(share: float) -> str:
    return f"{number(100 * share)} %"


def _compared(report: Report) -> list[Model]:
    """The bases of the data set that most paths were tried on, the straight one first."""
    settings = report.study["settings"]["bases"]
    bases = [model for model in report.study["models"] if model["kind"] == "base"]
    several: dict[str, list[Model]] = {}
    for model in bases:
        if settings[model["base"]]["start"] == "gaussian":
            several.setdefault(settings[model["base"]]["dataset"], []).append(model)
    return max(several.values(), key=len)


def _grid(report: Report, models: Sequence[Model], trials: Sequence[tuple[str, str]]) -> Figure:
    """Paths of models (down) with trials (across, name and heading); real points in light grey behind."""
    settings = report.study["settings"]["bases"]
    real = _real(report, models[0]["base"])
    reach = 1.25 * float(numpy.abs(real).max())
    with style():
        drawn = Figure(figsize=(2.45 * len(trials), 2.65 * len(models)))
        panels = drawn.subplots(len(models), len(trials), squeeze=False)
        for row, model in zip(panels, models, strict=True):
            for axes, (trial, heading) in zip(row, trials, strict=True):
                paths, found = _paths(report, model, trial), _measured(report, model, trial)["energy_real"]
                axes.scatter(*real.T, s=4, color="#d1d5db", linewidths=0)
                _threads(axes, paths, 0.5, 20 if trial.startswith(SDE) else _LINES)
                _dots(axes, paths[:, -1], DARK)
                _square(axes, reach)
                top = f"{heading}\n" if model is models[0] else ""
                axes.set_title(f"{top}energy distance {number(found['value'], 2)}", fontsize=9, fontweight="normal")
            path = _PATHS[settings[model["base"]]["interpolation"]]
            row[0].text(
                -0.04, 0.5, path, rotation=90, transform=row[0].transAxes, ha="right", va="center", weight="bold"
            )
        drawn.tight_layout()
    return drawn


def interpolations(report: Report) -> Figure:
    """Euler's method on the flow of each path, by numbers of steps; 1-rectified flows, nothing is reflowed."""
    models = _compared(report)
    steps = [trial for trial in models[0]["trials"] if trial["solver"] == WINDOW and not _reference(trial)]
    return _grid(report, models, [(trial["name"], f"N = {trial['steps']}") for trial in steps])


def diffusions(report: Report) -> Figure:
    """Of the paths that diffusions have: Euler on the ODE beside the reverse SDE, with few steps and many."""
    models = [model for model in _compared(report) if any(trial["solver"] == SDE for trial in model["trials"])]
    steps = sorted(trial["steps"] for trial in models[0]["trials"] if trial["solver"] == SDE)[-2:]
    named = {WINDOW: "ODE", SDE: "SDE"}
    return _grid(report, models, [(f"{solver}-{n}", f"{named[solver]}, N = {n}") for solver in named for n in steps])


def _reference(trial: dict[str, Any]) -> bool:
    return trial["name"].startswith("teacher")


def guarantees(report: Report) -> Html:
    """The three guarantees as numbers: marginals, convex transport costs and straightness along the chain."""
    metrics = ("energy_real", "crossing", *_COSTS, "straightness")
    header = ["coupling", *(metric_name(metric, "") for metric in metrics), "RK45 evaluations"]
    parts = []
    for base in flows(report):
        chain = _chain(report, base)
        own = _measured(report, chain[0], _finest(chain[0]))
        rows = [[Cell("random coupling", 1, "method"), *(_estimate(own.get(f"{name}_random")) for name in metrics), ""]]
        for model in [*chain, *_pieces(report, base)]:
            found = _measured(report, model, _finest(model))
            adaptive = next((trial["name"] for trial in model["trials"] if trial["solver"] == "rk45"), None)
            calls = _measured(report, model, adaptive)["evaluations"] if adaptive else None
            name = Cell(escape(_name(report, model)), 1, "method")
            rows.append([name, *(_estimate(found[metric]) for metric in metrics), _estimate(calls)])
        steps = count(max(trial["steps"] for trial in chain[0]["trials"]), "step")
        parts.append(
            table(header, rows, f"{base}, as measured here: Euler, {steps} (PeRFlow: the most it was tried with)")
        )
    return Html("".join(parts))


def _estimate(found: dict[str, float] | None) -> Cell:
    if found is None:
        return Cell("")
    low, high = number(found["low"], 2), number(found["high"], 2)
    value = number(found["value"])
    return Cell(value if found["low"] == found["high"] else f"{value}<small>[{low}, {high}]</small>")


def verdicts(report: Report) -> Html:
    """Each guarantee against each step of the chain: the paired difference, and in words whether it holds here."""
    header = ["guarantee", "from", "to", "difference", "here"]
    parts = []
    for base in flows(report):
        chain = _chain(report, base)
        found = [_measured(report, model, _finest(model)) for model in chain]
        names = ["random coupling", *(_name(report, model) for model in chain)]
        rows = []
        for name, own in zip(names[1:], found, strict=True):
            rows.append(_marginal(name, own["energy_real"]))
        for metric in _COSTS:
            costs = [found[0][f"{metric}_random"], *(own[metric] for own in found)]
            rows += _falling(f"{metric_name(metric, '')} does not rise", names, costs)
        rows += _falling("straightness S falls", names[1:], [own["straightness"] for own in found])
        parts.append(table(header, rows, base, "text"))
    return Html("".join(parts))


def _marginal(name: str, found: dict[str, Any]) -> list[Cell | str]:
    near = found["low"] <= 0 <= found["high"]
    value = f"{signed(found['value'])}<small>[{signed(found['low'])}, {signed(found['high'])}]</small>"
    said = "holds: no difference from data is seen" if near else "not kept exactly: learning and solving err"
    return ["the marginal at t = 0 is the data's", "data", name, Cell(value), said]


def _falling(what: str, names: Sequence[str], found: Sequence[dict[str, Any]]) -> list[list[Cell | str]]:
    """A line for each neighbouring pair; differences are paired, since starts are the same."""
    rows = []
    for (one, before), (other, after) in zip(zip(names, found, strict=True), list(zip(names, found, strict=True))[1:],
                                             strict=False):  # fmt: skip
        change = difference([after], [before], 0.05)
        value = f"{signed(change['difference'])}<small>[{signed(change['low'])}, {signed(change['high'])}]</small>"
        said = (
            "holds: it falls"
            if change["high"] < 0
            else "broken here: it rises"
            if change["low"] > 0
            else "no change is seen"
        )
        rows.append([what, one, other, Cell(value), said])
    return rows


def pictures(report: Report) -> dict[str, Figure]:
    """Every figure by name."""
    found = {f"trajectories-{base}": trajectories(report, base) for base in flows(report)}
    return found | {"interpolations": interpolations(report), "diffusions": diffusions(report)}


def shown(report: Report, name: str) -> Html:
    """The figures whose names begin with ``name``, with what they show."""
    captions = {
        "trajectories": "{} samples of each; colours say where a path starts. Above: straight lines from start to end, "
        "and how likely two of them are to cross. Below: the paths, and their straightness S (0 is straight).",
        "interpolations": "Euler's method in N steps from a Gaussian to the same data, for flows trained alike on each"
        " path. Light: data. Dark: where samples end.",
        "diffusions": "The same networks: their ODE, and the reverse SDE of the same marginals (fewer paths drawn).",
    }
    drawn = {key: made for key, made in pictures(report).items() if key.startswith(name)}
    bases = {key: f"{key.removeprefix(name).lstrip('-')}. ".lstrip(". ").capitalize() for key in drawn}
    return Html("".join(
        figure(made, bases[key] + captions[name].format(_LINES), vector=False) for key, made in drawn.items()
    ))  # fmt: skip


def setting(report: Report) -> Html:
    """What was trained and measured, in a sentence of numbers."""
    settings, models = report.study["settings"], report.study["models"]
    training, sampling = settings["training"], settings["sampling"]
    students = sum(model["kind"] == "student" for model in models)
    text = (
        f"{count(len(settings['bases']), 'flow')} trained from data and {count(students, 'student')} of"
        f" {listed(flows(report))}; each {count(training['steps'], 'step')} of {training['batch']} points. Numbers are"
        f" of {sampling['prompts'] * sampling['per_prompt']:,} samples from the same starts; brackets are"
        f" {100 * settings['evaluation']['confidence']:g} % intervals over samples, within one training."
    )
    return Html(f"<p>{escape(text)}</p>")
