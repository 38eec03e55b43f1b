"""Numbers and sentences as the report prints them. Every number in a sentence comes from a table's line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from perflow.core.grid import dashed
from perflow.report.reading import NOT_SEEN, SEEN

NOT_TESTED = "not tested"
ADAPTIVE = "adaptive"
"""What stands for the steps of a solver that decides as it goes."""
_AS_SAID = {NOT_SEEN: "not seen, the reverse holds"}


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, without an exponent where that is readable; "" for no value."""
    if value is None or math.isnan(value):
        return ""
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -5 <= power < 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(digits - 1 - power, 0)}f}"


def scale(metric: str, values: Iterable[float | None]) -> int:
    """What a table multiplies a metric by: 1000 for a kernel distance (KID) that is small in all of ``values``, as in
    standardised features; in raw ones, which are not of size 1, it is large as it is."""
    known = [abs(value) for value in values if value is not None and not math.isnan(value)]
    return 1000 if metric.startswith("kid_") and max(known, default=0) < 10 else 1


def signed(value: float) -> str:
    """As :func:`number`, with its sign, and a true minus."""
    return ("−" if value < 0 else "+") + number(abs(value))


def count(value: float | list[int], noun: str) -> str:
    """``1 step``, ``4 steps``; of a list, one a window, ``12-8-6-6 steps``."""
    if isinstance(value, list):
        return f"{dashed(value)} {noun}s"
    return f"{int(value)} {noun}" + ("" if value == 1 else "s")


def in_steps(value: float) -> str:
    """``4 steps``; ``adaptive steps`` of a solver that decides as it goes, whose number is 0."""
    return count(value, "step") if value else f"{ADAPTIVE} steps"


def stepped(value: float) -> str:
    """Steps as a cell of a table: ``4``, or ``adaptive``."""
    return str(int(value)) if value else ADAPTIVE


def pairs_of(starts: str | None, ends: str | None, guidance_mode: str | None) -> str:
    """What a student's pairs were, such as ``starts: data, CFG-sync``; "" where it has none."""
    said = [starts and f"starts: {starts}", ends and f"ends: {ends}, no teacher", guidance_mode]
    return ", ".join(part for part in said if part)


def size(value: float | None) -> str:
    """Bytes in the unit that reads best."""
    if value is None or math.isnan(value):
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{number(value) if unit != 'B' else int(value)} {unit}"
        value /= 1000
    return f"{number(value)} TB"


def seconds(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None or math.isnan(value):
        return ""
    for limit, unit, scale in ((120, "s", 1), (7200, "min", 60)):
        if value < limit:
            return f"{number(value / scale)} {unit}"
    return f"{number(value / 3600)} h"


def sentence(rows: list[dict[str, Any]]) -> str:
    """One arm against all it was compared with under one ordering: values and verdicts.

    ``rows`` are lines of comparisons.csv that share ``ordering``, ``better_key`` and ``better_trial``.
    """
    first = rows[0]
    several = f", the mean of {first['better_seeds']} seeds" if first["better_seeds"] > 1 else ""
    against = listed(
        f"{number(row['worse_value'])} for {row['worse']} with {_different(row)} "
        f"({_AS_SAID.get(row['verdict'], row['verdict'])})"
        for row in rows
    )
    own = f"{first['better']}: {number(first['better_value'])} with {cost(first, 'better')}{several}"
    return f"{own}; against {against}."


def _different(row: dict[str, Any]) -> str:
    """The cost of the other arm, in the unit in which it differs."""
    same = row["better_steps"] == row["worse_steps"]
    return count(row["worse_nfe"], "evaluation") if same else cost(row, "worse")


def cost(row: dict[str, Any], side: str) -> str:
    """Steps and evaluations of one side of a comparison."""
    return f"{in_steps(row[f'{side}_steps'])} and {count(row[f'{side}_nfe'], 'evaluation')}"


def probability(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the comparisons of one ordering say together: a verdict they share, or how many saw it."""
    found = [row["verdict"] for row in rows]
    if not found:
        return NOT_TESTED
    return found[0] if len(set(found)) == 1 else f"seen in {found.count(SEEN)} of {len(found)}"


def listed(items: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = items
    return f"{', '.join(most)} and {last}" if most else last
