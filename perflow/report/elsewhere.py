"""How compatibility.csv is read: a table, a figure and a gallery for each setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from perflow.report import figures, galleries, markup
from perflow.report.data import Report, read_table, records
from perflow.report.html import Cell, Html, figure, paragraph, table
from perflow.report.study import metric_name
from perflow.report.transfers import CLOSER, FARTHER
from perflow.report.words import count, in_steps, number, stepped

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
    parts: list[str] = [*map(paragraph, _reading(lines)), _glance(lines)]
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == setting]
        steps = min(line["steps"] for line in own if line["steps"])
        parts.append(f"<h3>{escape(own[0]['setting_label'])}</h3>")
        if len({line["scale"] for line in own}) > 2:
            metric = report.shown("fd_teacher")
            caption = (
                f"{metric_name(metric, report.extractor)} with {count(steps, 'step')}, on base + s (fine-tune − base)."
                " Grey: the base without a delta, its best solver."
            )
            parts.append(figure(figures.travel(own, metric, steps, report.extractor), caption))
        base = galleries.shown_base(own)
        caption = (
            f"On {base}, {count(steps, 'step')}; a column has the same noise and prompt in all rows, and the same"
            " picture where the pipeline is shown one: that of the first row."
        )
        parts.append(figure(galleries.elsewhere(report, setting, base, steps), caption, vector=False))
        parts.append(_table(own))
    return Html("".join(parts))


_ROLES = {
    "teacher": "teacher: the base in this setting, many steps",
    "base": "without a delta",
    "delta": "with the delta of its base",
    "own": "taught on this base itself",
}


def _glance(lines: list[dict[str, Any]]) -> Html:
    """All settings together: the leading metric of the base and of each delta, at every number of steps."""
    name, header, rows = _overview(lines)
    spans = Counter(row[0] for row in rows)
    body: list[list[Cell] | str] = []
    for i, (where, *cells) in enumerate(rows):
        first = [Cell(escape(where), spans[where], "method")] if not i or rows[i - 1][0] != where else []
        body.append([*first, *(Cell(cell) for cell in cells)])
    return table(header, body, f"{name}, all settings together", "results")


def _overview(lines: list[dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """The leading metric's name, a heading, and a row for each setting on each base at a number of steps."""
    metric = next(name for name in _SHOWN if any(line["metric"] == name for line in lines))
    own = [line for line in lines if line["metric"] == metric]
    taught = dict.fromkeys((role, line["method"]) for role in ("delta", "own") for line in own if line["role"] == role)
    header = ["setting", "steps", "without a delta"]
    header += [method if role == "delta" else f"{method}, taught there" for role, method in taught]
    rows = []
    for scene in dict.fromkeys(line["scene"] for line in own):
        here = [line for line in own if line["scene"] == scene]
        where = f"{here[0]['setting_label']}: {_place(here[0])}"
        for steps in sorted({line["steps"] for line in here if line["role"] in ("delta", "own")}):
            at = {(line["role"], line["method"]): line for line in here if line["steps"] == steps}
            held = {line["against"] for line in at.values()} - {None}
            base = next((line for line in here if line["role"] == "base" and line["trial"] in held), None)
            rows.append([where, stepped(steps), _marked(base), *(_marked(at.get(who)) for who in taught)])
    return own[0]["metric_name"], header, rows


def _reading(lines: list[dict[str, Any]]) -> list[str]:
    """For each delta and number of steps, in how many settings it helps by the leading metric, in a sentence."""
    metric = next(name for name in _SHOWN if any(line["metric"] == name for line in lines))
    found: dict[tuple[str, int], dict[str | None, list[str]]] = {}
    for line in lines:
        if line["role"] == "delta" and line["metric"] == metric and line["against"] is not None:
            verdicts = found.setdefault((line["method"], line["steps"]), {})
            verdicts.setdefault(line["verdict"], []).append(f"{line['setting_label']}: {_place(line)}")
    said = []
    for (method, steps), verdicts in found.items():
        counted = ", ".join(_counted(name, verdicts.get(name, [])) for name in (CLOSER, FARTHER))
        total = sum(map(len, verdicts.values()))
        said.append(f"{method}, {in_steps(steps)}: of {count(total, 'setting')} {counted}, else within the noise.")
    if not said:
        return []
    name = next(line["metric_name"] for line in lines if line["metric"] == metric)
    return [f"By {name}, against the base in the same setting with as many steps of its best solver:", *said]


def _counted(verdict: str, places: list[str]) -> str:
    return f"{verdict} in {len(places)}" + (f" ({'; '.join(places)})" if places else "")


def _table(lines: list[dict[str, Any]]) -> Html:
    """Of one setting, by base: teacher, base at few steps, base with deltas."""
    shown = [metric for metric in _SHOWN if any(line["metric"] == metric for line in lines)]
    header = ["method", "steps", "eval.", *(_SHOWN[metric] for metric in shown)]
    body: list[list[Cell] | str] = []
    for scene in dict.fromkeys(line["scene"] for line in lines):
        for role, name in _ROLES.items():
            trials = _trials(line for line in lines if line["scene"] == scene and line["role"] == role)
            if trials:
                body.append(f"{_place(trials[0][0])}: {name}")
            spans = Counter(trial[0]["method"] for trial in trials)
            for i, trial in enumerate(trials):
                method = trial[0]["method"]
                again = bool(i) and trials[i - 1][0]["method"] == method
                first = [] if again else [Cell(escape(method), spans[method], "method")]
                body.append([*first, *_cells(trial, shown)])
    return table(header, body, "", "results")


def _place(line: dict[str, Any]) -> str:
    return f"{line['base']}, s = {line['scale']:g}" if line["scale"] else line["base"]


def _trials(lines: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        grouped.setdefault((line["scene"], line["model"], line["trial"]), []).append(line)
    return list(grouped.values())


def _cells(trial: list[dict[str, Any]], shown: list[str]) -> list[Cell]:
    by = {line["metric"]: line for line in trial}
    cells = [Cell(stepped(trial[0]["steps"])), Cell(str(trial[0]["nfe"]))]
    return [*cells, *(Cell(_marked(by.get(metric)) + _interval(by.get(metric))) for metric in shown)]


def _interval(line: dict[str, Any] | None) -> str:
    if line is None or line["low"] is None:
        return ""
    return f"<small>[{number(line['low'], 2)}, {number(line['high'], 2)}]</small>"


def compatibility_markdown(results_dir: str | Path) -> str:
    """The same as Markdown, from the collected table; "" for a study without settings."""
    lines = records(read_table(Path(results_dir) / "tables" / "compatibility.csv"))
    if not lines:
        return ""
    shown = [metric for metric in _SHOWN if any(line["metric"] == metric for line in lines)]
    name, header, rows = _overview(lines)
    first, *said = _reading(lines) or [""]
    parts = [
        first,
        "",
        *(f"- {line}" for line in said),
        "",
        f"{name}, all settings together:",
        "",
        markup.table(header, rows),
        "",
    ]
    for setting in dict.fromkeys(line["setting"] for line in lines):
        own = [line for line in lines if line["setting"] == setting]
        body = []
        for trial in _trials(own):
            first, by = trial[0], {line["metric"]: line for line in trial}
            name = {"teacher": "", "base": "", "delta": "delta: ", "own": "own student: "}[first["role"]]
            cells = [_place(first), name + first["method"], stepped(first["steps"]), str(first["nfe"])]
            body.append([*cells, *(_marked(by.get(metric)) + _bracket(by.get(metric)) for metric in shown)])
        heads = ["base", "method", "steps", "evaluations", *(_SHOWN[name] for name in shown)]
        parts += [f"### {own[0]['setting_label']}", "", markup.table(heads, body), ""]
    parts.append(
        "Brackets: interval over noise and prompts within one training seed. ▲ and ▼: better and worse than the base in"
        " the same setting at as many steps with its best solver, beyond noise (paired, Holm-corrected by metric)."
    )
    return "\n".join(parts) + "\n"


def _marked(line: dict[str, Any] | None) -> str:
    if line is None:
        return ""
    return number(line["value"]) + {CLOSER: " ▲", FARTHER: " ▼"}.get(line["verdict"], "")


def _bracket(line: dict[str, Any] | None) -> str:
    if line is None or line["metric"] != "fd_teacher" or line["low"] is None:
        return ""
    return f" [{number(line['low'], 2)}, {number(line['high'], 2)}]"
