"""How compatibility.csv is read: a table, a figure and a gallery for each setting."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from perflow.report import figures, galleries
from perflow.report.data import Report, read_table, records
from perflow.report.html import Cell, Html, figure, table
from perflow.report.study import metric_name
from perflow.report.transfers import CLOSER, FARTHER
from perflow.report.words import count, number

_SHOWN = {
    "fd_teacher": "FD to teacher",
    "prompt_accuracy": "prompt accuracy",
    "teacher_mse": "relative MSE",
    "fd_real": "FD to real",
}


def compatibility(report: Report) -> Html:
    """Every setting: its table, how the distance grows along a fine-tune, and samples."""
    if not len(report.tables["compatibility"]):
        return Html("<p>This study puts no delta into another setting.</p>")
    lines = records(report.tables["compatibility"])
    parts: list[str] = []
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == setting]
        steps = min(line["steps"] for line in own)
        parts.append(f"<h3>{escape(own[0]['setting_label'])}</h3>")
        if len({line["scale"] for line in own}) > 2:
            metric = report.shown("fd_teacher")
            caption = (
                f"{metric_name(metric, report.extractor)} with {count(steps, 'step')}, on base + s (fine-tune − base)."
                " Grey: the base without a delta, its best solver."
            )
            parts.append(figure(figures.travel(own, metric, steps, report.extractor), caption))
        base = galleries.shown_base(own)
        caption = f"On {base}, {count(steps, 'step')}; a column has the same noise, prompt and picture in all rows."
        parts.append(figure(galleries.elsewhere(report, setting, base, steps), caption, vector=False))
        parts.append(_table(own))
    return Html("".join(parts))


_ROLES = {
    "teacher": "teacher: the base in this setting, many steps",
    "base": "without a delta",
    "delta": "with the delta of its base",
    "own": "taught on this base itself",
}


def _table(lines: list[dict[str, Any]]) -> Html:
    """Of one setting, by base: teacher, base at few steps, base with deltas."""
    shown = [metric for metric in _SHOWN if any(line["metric"] == metric for line in lines)]
    header = ["method", "steps", "eval.", *(_SHOWN[metric] for metric in shown), "against the base at as many steps"]
    body: list[list[Cell] | str] = []
    for scene in dict.fromkeys(line["scene"] for line in lines):
        for role, name in _ROLES.items():
            trials = _trials(line for line in lines if line["scene"] == scene and line["role"] == role)
            if trials:
                body.append(f"{_where(trials[0][0])}{name}")
                body += [_cells(trial, shown) for trial in trials]
    return table(header, body, "", "results")


def _where(line: dict[str, Any]) -> str:
    return f"{line['base']}, s = {line['scale']:g}: " if line["scale"] else f"{line['base']}: "


def _trials(lines: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        grouped.setdefault((line["scene"], line["model"], line["trial"]), []).append(line)
    return list(grouped.values())


def _cells(trial: list[dict[str, Any]], shown: list[str]) -> list[Cell]:
    first, by = trial[0], {line["metric"]: line for line in trial}
    cells = [Cell(escape(first["method"]), 1, "method"), Cell(str(first["steps"])), Cell(str(first["nfe"]))]
    for metric in shown:
        line = by.get(metric)
        cells.append(Cell(_interval(line) if line else ""))
    return [*cells, Cell(escape(_said(by)))]


def _interval(line: dict[str, Any]) -> str:
    low, high = number(line["low"], 2), number(line["high"], 2)
    return number(line["value"]) + (f"<small>[{low}, {high}]</small>" if low else "")


def _said(by: dict[str, dict[str, Any]]) -> str:
    """Verdicts by metric, of those that are shown."""
    said = [f"{_SHOWN[name]}: {by[name]['verdict']}" for name in _SHOWN if by.get(name, {}).get("verdict")]
    return "; ".join(said)


def compatibility_markdown(results_dir: str | Path) -> str:
    """The same as Markdown, from the collected table; "" for a study without settings."""
    lines = records(read_table(Path(results_dir) / "tables" / "compatibility.csv"))
    if not lines:
        return ""
    shown = [metric for metric in _SHOWN if any(line["metric"] == metric for line in lines)]
    parts = []
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == setting]
        parts += [f"### {own[0]['setting_label']}", ""]
        parts.append("| base | method | steps | evaluations | " + " | ".join(_SHOWN[name] for name in shown) + " |")
        parts.append("|---|---|---:|---:|" + "---:|" * len(shown))
        for trial in _trials(own):
            first, by = trial[0], {line["metric"]: line for line in trial}
            where = f"{first['base']}, s={first['scale']:g}" if first["scale"] else first["base"]
            name = {"teacher": "", "base": "", "delta": "delta: ", "own": "own student: "}[first["role"]]
            cells = [where, name + first["method"], str(first["steps"]), str(first["nfe"])]
            cells += [_marked(by.get(metric)) for metric in shown]
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    parts.append(
        "Brackets: interval over noise and prompts within one training seed. ▲ and ▼: better and worse than the base in"
        " the same setting at as many steps with its best solver, beyond noise (paired, Holm-corrected by metric)."
    )
    return "\n".join(parts) + "\n"


def _marked(line: dict[str, Any] | None) -> str:
    if line is None:
        return ""
    mark = {CLOSER: " ▲", FARTHER: " ▼"}.get(line["verdict"], "")
    interval = f" [{number(line['low'], 2)}, {number(line['high'], 2)}]" if line["metric"] == "fd_teacher" else ""
    return number(line["value"]) + interval + mark
