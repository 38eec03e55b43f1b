"""The main table as plain text for a terminal, it and the readings as Markdown for the README."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from perflow.report import markup
from perflow.report.data import read_table, records, wide
from perflow.report.study import leading
from perflow.report.words import ADAPTIVE, count, in_steps, number, stepped

_WIDTH = 110
_PAPER_STEPS = 4, 8
_METRICS = {
    "fd_teacher": ("FD to teacher", number),
    "kid_teacher": ("KID", lambda value: f"{value:.2f}" if abs(value) < 1000 else number(value)),
    "fd_real": ("FD real", number),
    "prompt_accuracy": ("acc.", lambda value: f"{value:.3f}"),
    "teacher_mse": ("rel. MSE", lambda value: number(value, 2)),
}
"""Headings and forms, in the order of the columns; the first that was measured has its interval and the seeds."""


def summary(results_dir: str | Path) -> str:
    """The main table of collected results for a terminal, at most 110 columns wide."""
    arms = wide(read_table(Path(results_dir) / "tables" / "main.csv"))
    header = _header(arms, "eval.")
    rows = [_cells(arm, _shown(arms), _several_bases(arms)) for arm in arms]
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    widths[0] = max(12, min(widths[0], _WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)))
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines, last = [*_lines(header, widths), rule], None
    for row in rows:
        lines += _lines((row[0] if row[0] != last else "", *row[1:]), widths)
        last = row[0]
    return "\n".join([*lines, rule, *textwrap.wrap(_legend(arms), _WIDTH)]) + "\n"


def markdown(results_dir: str | Path) -> str:
    """The main table of collected results as Markdown, with its legend below."""
    return _markdown(wide(read_table(Path(results_dir) / "tables" / "main.csv")))


def headline(results_dir: str | Path) -> str:
    """The main table as Markdown, with the teacher and the steps of the paper's tables only."""
    arms = wide(read_table(Path(results_dir) / "tables" / "main.csv"))
    return _markdown([arm for arm in arms if arm["reference"] or arm["steps"] in _PAPER_STEPS])


def _markdown(arms: list[dict[str, Any]]) -> str:
    header = _header(arms, "evaluations")
    rows = [_cells(arm, _shown(arms), _several_bases(arms)) for arm in arms]
    return f"{markup.table(header, rows)}\n\n{_legend(arms)}\n"


def readings(results_dir: str | Path) -> str:
    """The published orderings as Markdown: a line for each method that was compared, with the verdicts."""
    lines, last = ["| claimed | of | here |", "|---|---|---|"], None
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records(read_table(Path(results_dir) / "tables" / "comparisons.csv")):
        groups.setdefault((row["claim"], row["better"]), []).append(row)
    for (claim, method), rows in groups.items():
        verdicts: dict[str, list[str]] = {}
        for row in rows:
            against = row["worse"] if row["worse"] != method else in_steps(row["worse_steps"])
            verdicts.setdefault(row["verdict"], []).append(f"{against} at {count(row['worse_nfe'], 'evaluation')}")
        said = "; ".join(f"**{verdict}** ({', '.join(found)})" for verdict, found in verdicts.items())
        lines.append(f"| {claim if claim != last else ''} | {method} | {said} |")
        last = claim
    return "\n".join(lines) + "\n"


def _header(arms: list[dict[str, Any]], evaluations: str) -> tuple[str, ...]:
    base = ("base",) if _several_bases(arms) else ()
    first, *rest = (_heading(name, arms) for name in _shown(arms))
    return ("method", *base, "steps", evaluations, first, "seeds", *rest)


def _heading(metric: str, arms: list[dict[str, Any]]) -> str:
    name = _METRICS[metric][0] if metric in _METRICS else metric
    thousands = any(arm["metrics"][metric]["scale"] == 1000 for arm in arms if metric in arm["metrics"])
    return name + ("·1e3" if thousands else "")


def _shown(arms: list[dict[str, Any]]) -> list[str]:
    """The metrics of the table: those of :data:`_METRICS` that were measured, else the one that stands for quality."""
    measured = {name for arm in arms for name in arm["metrics"]}
    return [name for name in _METRICS if name in measured] or [leading(measured) or "fd_teacher"]


def _several_bases(arms: list[dict[str, Any]]) -> bool:
    return len({arm["base"] for arm in arms}) > 1


def _value(metric: str, line: dict[str, Any] | None) -> str:
    if line is None or line["value"] is None:
        return ""
    value = line["value"] * line["scale"]
    return _METRICS[metric][1](value) if metric in _METRICS else number(value)


def _cells(arm: dict[str, Any], shown: list[str], several: bool) -> tuple[str, ...]:
    lines = [arm["metrics"].get(name) for name in shown]
    first, *rest = (_value(name, line) for name, line in zip(shown, lines, strict=True))
    spread = ""
    if line := lines[0]:
        low, high, deviation = (
            number(None if line[name] is None else line["scale"] * line[name], 2)
            for name in ("low", "high", "seed_std")
        )
        first += f" [{low}, {high}]"
        spread = f"±{deviation} ({line['n_seeds']})" if line["n_seeds"] > 1 else "1"
    base = (arm["base"],) if several else ()
    return (arm["label"], *base, stepped(arm["steps"]), str(arm["nfe"]), first, spread, *rest)


def _lines(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """A row of text; a long name goes on below itself."""
    first, *more = textwrap.wrap(row[0], widths[0]) or [""]
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return ["  ".join(cells).rstrip(), *("  " + line for line in more)]


def _legend(arms: list[dict[str, Any]]) -> str:
    names = {name: line["metric_name"] for arm in arms for name, line in arm["metrics"].items()}
    shown = [names[name] for name in _shown(arms) if name in names]
    as_it_goes = f" Steps that are {ADAPTIVE}: as many as each sample takes; its evaluations are the mean."
    return (
        f"In order: {'; '.join(shown)}. Brackets: interval over noise and prompts within one training seed. "
        "Seeds: standard deviation over training seeds (their number)."
    ) + (as_it_goes if any(not arm["steps"] for arm in arms) else "")
