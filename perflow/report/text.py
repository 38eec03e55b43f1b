"""The main table as plain text for a terminal and as Markdown for the README."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from perflow.report.data import read_table, wide
from perflow.report.words import number

_WIDTH = 110
_METRICS = ("kid_teacher", "fd_real", "prompt_accuracy", "teacher_mse")


def summary(results_dir: str | Path) -> str:
    """The main table of collected results for a terminal, at most 110 columns wide."""
    arms = wide(read_table(Path(results_dir) / "tables" / "main.csv"))
    header = _header(arms, "eval.")
    rows = [_cells(arm, _several_bases(arms)) for arm in arms]
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
    arms = wide(read_table(Path(results_dir) / "tables" / "main.csv"))
    header = _header(arms, "evaluations")
    rows = [_cells(arm, _several_bases(arms)) for arm in arms]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", _legend(arms)]) + "\n"


def _header(arms: list[dict[str, Any]], evaluations: str) -> tuple[str, ...]:
    base = ("base",) if _several_bases(arms) else ()
    titles = ("FD to teacher", "seeds", "KID·1e3", "FD real", "acc.", "rel. MSE")
    return ("method", *base, "steps", evaluations, *titles)


def _several_bases(arms: list[dict[str, Any]]) -> bool:
    return len({arm["base"] for arm in arms}) > 1


def _cells(arm: dict[str, Any], several: bool) -> tuple[str, ...]:
    values = {name: line["value"] for name, line in arm["metrics"].items()}
    kid, real, accuracy, mse = (values.get(name) for name in _METRICS)
    fd, spread = "", ""
    if line := arm["metrics"].get("fd_teacher"):
        fd = f"{number(line['value'])} [{number(line['low'], 2)}, {number(line['high'], 2)}]"
        spread = f"±{number(line['seed_std'], 2)} ({line['n_seeds']})" if line["n_seeds"] > 1 else "1"
    return (
        arm["label"],
        *((arm["base"],) if several else ()),
        str(arm["steps"]),
        str(arm["nfe"]),
        fd,
        spread,
        "" if kid is None else f"{1000 * kid:.2f}",
        number(real),
        "" if accuracy is None else f"{accuracy:.3f}",
        number(mse, 2),
    )


def _lines(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """A row of text; a long name goes on below itself."""
    first, *more = textwrap.wrap(row[0], widths[0]) or [""]
    cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return ["  ".join(cells).rstrip(), *("  " + line for line in more)]


def _legend(arms: list[dict[str, Any]]) -> str:
    names = {name: line["metric_name"] for arm in arms for name, line in arm["metrics"].items()}
    shown = [names[name] for name in ("fd_teacher", *_METRICS) if name in names]
    return (
        f"In order: {'; '.join(shown)}. Brackets: interval over noise and prompts within one training seed. "
        "Seeds: standard deviation over training seeds (their number)."
    )
