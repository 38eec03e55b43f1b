"""Estimates of trials as a model card prints them, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from perflow.core import WINDOW
from perflow.report.study import METRICS
from perflow.report.words import count, in_steps, number


def guidance(value: float | list[float] | None) -> str | None:
    """One guidance, or one a window; None for none."""
    if value is None:
        return None
    return ", ".join(f"{each:g}" for each in (value if isinstance(value, list) else [value]))


def trial(found: Mapping[str, Any]) -> str:
    """Solver, cost and guidance."""
    solver = "windows" if found["solver"] == WINDOW else found["solver"]
    cost = f"{in_steps(found['steps'])}, {count(found['nfe'], 'evaluation')}"
    return f"{solver}, {cost}, guidance {guidance(found['guidance'])}"


def estimate(found: Mapping[str, float] | None) -> str:
    """Value and interval; "" for none."""
    return "" if found is None else f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]"


def measured_in(trials: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics of trials, in the order of the report."""
    found = {name for each in trials for name in each["metrics"]}
    return [name for name in METRICS if name in found] + sorted(found - METRICS.keys())
