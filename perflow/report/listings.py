"""The two tables of results: every method, and every number of windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape
from typing import Any

from perflow.report.data import Report, records
from perflow.report.html import Cell, Html, table
from perflow.report.study import metric_name
from perflow.report.words import count, number, pairs_of, scale, stepped

_SHORT = {
    "fd_teacher": "FD to teacher",
    "kid_teacher": "KID to teacher",
    "teacher_mse": "relative MSE",
    "prompt_accuracy": "prompt accuracy",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "diversity": "diversity",
    "vendi": "Vendi",
    "fd_real": "FD to real",
    "energy_real": "energy distance to data",
    "crossing": "crossing",
    "transport_square": "E|x1-x0|²",
    "straightness": "straightness S",
}
"""The metrics of the main table and their headings; the others stand in the csv only."""
_GROUPS = (
    ("The teacher's own samples", lambda arm: arm["reference"]),
    ("Training-free: the base with another solver", lambda arm: arm["kind"] == "base"),
    ("Students on their windows", lambda arm: arm["windowed"]),
    ("Students with an ordinary solver", lambda arm: True),
)


def main_table(report: Report) -> Html:
    """Every method at every number of steps with its metrics; the interval stands below the value."""
    arms = report.wide()
    measured = {name for arm in arms for name in arm["metrics"]}
    metrics = [name for name in _SHORT if name in measured] or [report.shown(next(iter(_SHORT)))]
    several = len({arm["base"] for arm in arms}) > 1
    first, rest = metrics[:1], metrics[1:]
    header = ["method", "steps", "eval.", *(_heading(name, arms) for name in first), "log scale", "over seeds"]
    header += [_heading(name, arms) for name in rest]
    bar = _bars(arms, metrics[0])
    parts = []
    for base in dict.fromkeys(arm["base"] for arm in arms):
        rows: list[list[Cell] | str] = []
        left = [arm for arm in arms if arm["base"] == base]
        for title, belongs in _GROUPS:
            group, left = [arm for arm in left if belongs(arm)], [arm for arm in left if not belongs(arm)]
            if group:
                rows.append(title)
                rows += _block(group, first, rest, bar)
        parts.append(table(header, rows, f"Base {base}" if several else "", "results"))
    return Html("".join(parts))


def _block(arms: list[dict], first: list[str], rest: list[str], bar: Callable[[dict | None], Cell]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for label in dict.fromkeys(arm["label"] for arm in arms):
        same = [arm for arm in arms if arm["label"] == label]
        for i, arm in enumerate(same):
            name = [Cell(_named(arm), len(same), "method")] if i == 0 else []
            cells = [Cell(stepped(arm["steps"])), _evaluations(arm)]
            for metric in first:
                line = arm["metrics"].get(metric)
                cells += [_value(line, "key"), bar(line), _spread(line)]
            cells += [_value(arm["metrics"].get(metric)) for metric in rest]
            rows.append(name + cells)
    return rows


def _named(arm: dict[str, Any]) -> str:
    """A method's name, and below it what its pairs were."""
    about = pairs_of(arm["starts"], arm.get("ends"), arm["guidance_mode"])
    return escape(arm["label"]) + (f"<small>{escape(about)}</small>" if about else "")


def _evaluations(arm: dict[str, Any]) -> Cell:
    """Network evaluations of a sample; the mean, with its interval if that was measured, where each takes its own."""
    line = None if arm["steps"] else arm["metrics"].get("evaluations")
    return Cell(str(arm["nfe"])) if line is None else _value(line)


def _heading(metric: str, arms: list[dict[str, Any]]) -> str:
    thousands = any(arm["metrics"][metric]["scale"] == 1000 for arm in arms if metric in arm["metrics"])
    return _SHORT.get(metric, metric) + (" ·10³" if thousands else "")


def _value(line: dict | None, style: str = "") -> Cell:
    if line is None:
        return Cell("", 1, style)
    scale = line["scale"]
    value, low, high = (
        number(None if line[name] is None else line[name] * scale, digits)
        for name, digits in (("value", 3), ("low", 2), ("high", 2))
    )
    return Cell(f"{value}<small>[{low}, {high}]</small>" if low else value, 1, style)


def _spread(line: dict | None) -> Cell:
    """Mean and standard deviation over training seeds."""
    if line is None or line["n_seeds"] == 1:
        return Cell("")
    scale = line["scale"]
    mean, deviation = number(line["seed_mean"] * scale), number(line["seed_std"] * scale, 2)
    return Cell(f"{mean}<small>± {deviation}, {line['n_seeds']} seeds</small>")


def _bars(arms: list[dict], metric: str, width: int = 90) -> Callable[[dict | None], Cell]:
    """Draws a value with its interval as a dot on a line, on one logarithmic axis for the whole table."""
    lines = [arm["metrics"][metric] for arm in arms if metric in arm["metrics"]]
    positive = [line[name] for line in lines for name in ("value", "low", "high") if line[name] and line[name] > 0]
    low, high = (math.log(min(positive)), math.log(max(positive))) if positive else (0.0, 1.0)

    def place(value: float) -> float:
        return 4 + (width - 8) * (math.log(max(value, math.exp(low))) - low) / ((high - low) or 1.0)

    def draw(line: dict | None) -> Cell:
        if line is None or not line["value"] or line["value"] <= 0:
            return Cell("")
        left, dot, right = (place(line[name] or line["value"]) for name in ("low", "value", "high"))
        return Cell(
            f'<svg class="bar" width="{width}" height="14" viewBox="0 0 {width} 14" aria-hidden="true">'
            f'<line x1="0" x2="{width}" y1="7" y2="7"/>'
            f'<line class="range" x1="{left:.1f}" x2="{right:.1f}" y1="7" y2="7"/>'
            f'<circle cx="{dot:.1f}" cy="7" r="3.5"/></svg>'
        )

    return draw


def ablation_table(report: Report, metric: str = "fd_teacher") -> Html:
    """One metric by windows (down) and steps (across), a table for each entry that has several numbers of windows."""
    metric = report.shown(metric)
    shown = scale(metric, report.main["value"][report.main["metric"] == metric])
    lines = [row | {"scale": shown} for row in records(report.tables["ablation"]) if row["metric"] == metric]
    parts = []
    for base, entry in dict.fromkeys((row["base"], row["entry"]) for row in lines):
        own = [row for row in lines if (row["base"], row["entry"]) == (base, entry)]
        steps = sorted({row["steps"] for row in own})
        rows = []
        for key in dict.fromkeys(row["key"] for row in own):
            cells = {row["steps"]: row for row in own if row["key"] == key}
            any_row = next(iter(cells.values()))
            row = [Cell(str(int(any_row["windows"])), 1, "method"), Cell(str(any_row["n_seeds"]))]
            row += [_ablated(cells.get(step)) for step in steps]
            rows.append(row)
        name = own[0]["label"].split(", K=")[0]
        caption = f"{name} on {base}: {metric_name(metric, report.extractor)}; the shaded cells take one step a window"
        parts.append(table(["windows K", "seeds", *(count(step, "step") for step in steps)], rows, caption))
    return Html("".join(parts) or "<p>No entry of this study stands with more than one number of windows.</p>")


def _ablated(line: dict | None) -> Cell:
    if line is None:
        return Cell("")
    cell = _value(line, "key" if line["one_step_a_window"] else "")
    spread = f"<small>seeds ± {number(line['seed_std'], 2)}</small>" if line["n_seeds"] > 1 else ""
    return cell._replace(html=cell.html + spread)
