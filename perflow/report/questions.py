"""Sections that answer a question of their own, where a study has the rows for it; otherwise they are empty.

Where should windows start, do more steps help? Two rows are compared as in :mod:`perflow.report.reading`: paired under
common noise and prompts, all comparisons of a section corrected together (Holm).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from statistics import mean
from typing import Any, NamedTuple

from perflow import artifacts
from perflow.core.grid import dashed
from perflow.metrics import intervals
from perflow.report import reading
from perflow.report.data import Report, records
from perflow.report.html import Cell, Html, badge, folded, paragraph, table
from perflow.report.study import Arm, arms, metric_name
from perflow.report.words import count, listed, number, pairs_of, probability, signed, stepped

Measured = dict[str, dict[str, Any]]
"""Metrics files by model."""


class Difference(NamedTuple):
    """One arm against another: their values, the difference with its interval, and what is to be said of it."""

    own: Arm
    other: Arm
    values: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    verdict: str


def measured_of(report: Report) -> Measured:
    """The metrics files of a study by model."""
    names = [model["name"] for model in report.study["models"]]
    return {name: artifacts.read_json(report.results / "metrics" / f"{name}.json") for name in names}


def differences(pairs: Sequence[tuple[Arm, Arm]], metric: str, measured: Measured, error: float) -> list[Difference]:
    """The first of each pair against the second; p-values and verdicts are corrected over all (Holm)."""
    sides = [[estimates(arm, metric, measured) for arm in pair] for pair in pairs]
    found = [reading.difference(*side, error) for side in sides]
    adjusted = intervals.holm([one["p"] for one in found]) if found else []
    rows = []
    for pair, side, one, p in zip(pairs, sides, found, adjusted, strict=True):
        better = one["difference"] > 0 if metric in reading.HIGHER_IS_BETTER else one["difference"] < 0
        said = reading.NOISE if p >= error else reading.SEEN if better else reading.NOT_SEEN
        values = tuple(mean(estimate["value"] for estimate in own) for own in side)
        rows.append(Difference(*pair, values, one["difference"], one["low"], one["high"], float(p), said))
    return rows


def alpha(report: Report) -> float:
    """The error allowed to all comparisons of a section together."""
    return 1 - report.study["settings"].get("evaluation", {}).get("confidence", 0.95)


def has(arm: Arm, metric: str, measured: Measured) -> bool:
    """Whether every training seed has the metric."""
    return all(metric in measured[model]["trials"][arm.trial]["metrics"] for model in arm.models)


def estimates(arm: Arm, metric: str, measured: Measured) -> list[dict[str, Any]]:
    """One estimate a training seed."""
    return [measured[model]["trials"][arm.trial]["metrics"][metric] for model in arm.models]


def rivals(report: Report) -> Html:
    """Every student against the study's first, where steps and network evaluations are equal."""
    measured, metric = measured_of(report), report.shown("fd_teacher")
    every = [arm for arm in arms(report.study, report.results / "specs") if arm.kind == "student"]
    every = [arm for arm in every if arm.steps and has(arm, metric, measured)]  # adaptive steps are no equal cost
    first = {_place(arm): arm for arm in every if arm.key == every[0].key}
    pairs = [(arm, first[_place(arm)]) for arm in every if arm.key != every[0].key and _place(arm) in first]
    if not pairs:
        return Html("")
    found = sorted(differences(pairs, metric, measured, alpha(report)), key=lambda one: (one.own.steps, one.difference))
    rows = [
        [Cell(escape(one.own.label), 1, "method"), Cell(str(one.own.steps)), Cell(str(one.own.nfe)),
         Cell(number(one.values[0], 3)), Cell(str(len(one.own.models))),
         *apart(one)]
        for one in found
    ]  # fmt: skip
    text = (
        f"{every[0].label} is the first student of this study. Each other one is held against it where steps and"
        f" network evaluations are the same; {count(len(found), 'comparison')}, corrected together."
    )
    header = ["method", "steps", "evaluations", _mean_of(report, metric), "seeds",
              "difference to the first", "p, corrected", "better than the first"]  # fmt: skip
    return Html("".join((
        '<h2 id="rivals">Against the first student</h2>', paragraph(text), table(header, rows, kind="results"),
    )))  # fmt: skip


def apart(one: Difference) -> list[Cell]:
    """The cells of a difference: it with its interval, its corrected p, the verdict."""
    interval = f"<small>[{signed(one.low)}, {signed(one.high)}]</small>"
    return [Cell(f"{signed(one.difference)}{interval}"), Cell(probability(one.p)), Cell(badge(one.verdict))]


def _mean_of(report: Report, metric: str) -> str:
    """The heading of a metric where a cell is the mean over training seeds."""
    return f"{metric_name(metric, report.extractor)}, mean of seeds"


def _place(arm: Arm) -> tuple[Any, ...]:
    """What two arms share that cost the same."""
    return arm.base, arm.steps, arm.nfe, arm.teacher


def starts(report: Report) -> Html:
    """Where windows should start: a recipe from each kind of starts, and how far the student strays from them."""
    lines = [row for row in records(report.tables["windows"]) if row.get("start_gap") is not None]
    if not lines:
        return Html("")
    measured, metric = measured_of(report), report.shown("fd_teacher")
    every = [arm for arm in arms(report.study, report.results / "specs") if arm.windowed and has(arm, metric, measured)]
    taught = [arm for arm in every if arm.starts == "data" and arm.ends is None]
    first = {(arm.base, arm.guidance_mode, arm.steps): arm for arm in reversed(taught)}
    keys = [(arm.base, arm.guidance_mode, arm.steps) for arm in every]
    pairs = [(arm, first[key]) for arm, key in zip(every, keys, strict=True) if key in first and arm is not first[key]]
    told = {one.own.key + one.own.trial: one for one in differences(pairs, metric, measured, alpha(report))}
    evaluations = _evaluations(report)
    models = {model["name"]: model for model in report.study["models"]}
    rows = []
    for arm in every:
        gaps: dict[int, list[float]] = {}
        for line in lines:
            if line["key"] == arm.key:
                gaps.setdefault(line["window"], []).append(line["start_gap"])
        values = [estimate["value"] for estimate in estimates(arm, metric, measured)]
        one = told.get(arm.key + arm.trial)
        about = escape(pairs_of(arm.starts, arm.ends, arm.guidance_mode))
        rows.append([
            Cell(f"{escape(arm.label)}<small>{about}</small>", 1, "method"),
            Cell(stepped(arm.steps)), Cell(number(mean(values), 3), 1, "key"), Cell(str(len(values))),
            Cell(f"{_rests_on(models, arm.models[0], evaluations):,.0f}"),
            Cell(" ".join(number(mean(gap), 2) for _, gap in sorted(gaps.items()))),
            Cell("" if one is None else f"{signed(one.difference)} {badge(one.verdict)}"),
        ])  # fmt: skip
    header = ["method", "steps", _mean_of(report, metric), "seeds", "teacher evaluations",
              "own states to starts, by window", "closer than data starts"]  # fmt: skip
    text = (
        "A window learns from the states it is taught at. On its way a student comes by at states of its own: the"
        " gaps are their energy distance to the starts of its training, window by window from noise to data, over the"
        " spread of those starts; 0 is no difference. Teacher evaluations count all that the chain of a row rests on."
    )
    return Html("".join((
        '<h2 id="starts">Where windows should start</h2>', paragraph(text), table(header, rows, kind="results"),
    )))  # fmt: skip


_SPENT = ("solver", "steps", "count")
"""What of a recipe of pairs says how teacher evaluations are spent, and no more."""


def budget(report: Report) -> Html:
    """What a teacher evaluation buys: rows that differ only in how many pairs they have and how those are solved."""
    measured, metric = measured_of(report), report.shown("fd_teacher")
    models = {model["name"]: model for model in report.study["models"]}
    groups: dict[str, list[Arm]] = {}
    for arm in arms(report.study, report.results / "specs"):
        if arm.windowed and "pairs" in arm.recipe and has(arm, metric, measured):
            shared = {name: value for name, value in arm.recipe["pairs"].items() if name not in _SPENT}
            same = (arm.base, models[arm.models[0]]["edges"], arm.trial, arm.recipe | {"pairs": shared})
            groups.setdefault(json.dumps(same, sort_keys=True), []).append(arm)
    compared = [group for group in groups.values() if len(group) > 1]
    if not compared:
        return Html("")
    spent = _evaluations(report)
    costs = {arm.key: _rests_on(models, arm.models[0], spent) for group in compared for arm in group}
    most = {arm.key + arm.trial: max(group, key=lambda arm: costs[arm.key]) for group in compared for arm in group}
    pairs = [(arm, most[arm.key + arm.trial]) for group in compared for arm in group]
    found = differences([(arm, other) for arm, other in pairs if arm is not other], metric, measured, alpha(report))
    told = {one.own.key + one.own.trial: one for one in found}
    rows = []
    for arm, other in pairs:
        values = [estimate["value"] for estimate in estimates(arm, metric, measured)]
        one, made = told.get(arm.key + arm.trial), arm.recipe["pairs"]
        solved = " ".join(f"{name} {dashed(made[name])}" for name in ("solver", "steps"))
        about = escape(f"{count(made['count'], 'pair')}, {solved} in all windows")
        rows.append([
            Cell(f"{escape(arm.label)}<small>{about}</small>", 1, "method"), Cell(stepped(arm.steps)),
            Cell(f"{costs[arm.key]:,.0f}<small>{100 * costs[arm.key] / costs[other.key]:.0f} %</small>"),
            Cell(number(mean(values), 3), 1, "key"), Cell(str(len(values))),
            Cell("" if one is None else f"{signed(one.difference)} {badge(one.verdict)}"),
        ])  # fmt: skip
    header = ["method", "steps", "teacher evaluations", _mean_of(report, metric), "seeds",
              "closer than with the most evaluations"]  # fmt: skip
    text = (
        "These rows differ in their pairs alone: how many there are, and by which solver and steps the teacher solved"
        " each. Each is held against the one of its kind whose pairs cost the most teacher evaluations."
    )
    return Html("".join((
        '<h2 id="budget">What a teacher evaluation buys</h2>', paragraph(text), table(header, rows, kind="results"),
    )))  # fmt: skip


def _evaluations(report: Report) -> dict[str, float]:
    """Teacher evaluations by cache."""
    costs = records(report.tables["costs"])
    return {row["row"]: row["teacher_evaluations"] for row in costs if row["table"] == "pairs"}


def _rests_on(models: dict[str, dict[str, Any]], name: str, evaluations: dict[str, float]) -> float:
    """Teacher evaluations of a model's pairs and of those of every student it rests on, each cache once."""
    caches = {models[each]["pairs"] for each in (name, *models[name]["links"])}
    return sum(evaluations.get(cache) or 0 for cache in caches)


def monotone(report: Report) -> Html:
    """Whether more steps help: every line of rows that differ in their steps alone, from one number to the next."""
    measured, metric = measured_of(report), report.shown("fd_teacher")
    lines: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms(report.study, report.results / "specs"):
        if not arm.reference and has(arm, metric, measured):
            lines.setdefault((arm.key, arm.label), []).append(arm)
    pairs = [pair for line in lines.values() for pair in pairwise(sorted(line, key=lambda arm: arm.steps))]
    if not pairs:
        return Html("")
    told = [(more, fewer) for fewer, more in pairs]
    found = differences(told, metric, measured, alpha(report))
    by: dict[tuple[str, str], list[Difference]] = {}
    for one in found:
        by.setdefault((one.own.key, one.own.label), []).append(one)
    rows = []
    for (_, label), steps in by.items():
        worse = [one for one in steps if one.verdict == reading.NOT_SEEN]
        said = (
            "worse " + listed(f"from {one.other.steps} to {one.own.steps}" for one in worse) if worse else "never worse"
        )
        values = [steps[0].values[1], *(one.values[0] for one in steps)]
        numbers = [steps[0].other.steps, *(one.own.steps for one in steps)]
        course = ", ".join(f"{number(value, 3)} ({n})" for value, n in zip(values, numbers, strict=True))
        rows.append([Cell(escape(label), 1, "method"), Cell(course), Cell(said)])
    header = ["method", f"{metric_name(metric, report.extractor)} (steps)", "with more steps, beyond the noise"]
    text = f"{count(len(rows), 'line')} of rows that differ in their steps alone; {len(found)} neighbours compared."
    return Html("".join((
        '<h2 id="monotone">Do more steps help</h2>', paragraph(f"{text} {_monotone(rows)}"),
        folded("every line", table(header, rows, kind="text")),
    )))  # fmt: skip


def _monotone(rows: list[list[Cell]]) -> str:
    worse = [row for row in rows if row[2].html != "never worse"]
    if not worse:
        return "No line gets worse with more steps, beyond the noise."
    return f"{count(len(worse), 'line')} of {len(rows)} get worse somewhere with more steps, beyond the noise."
