"""compare: two results folders of one study, made on two machines or in two clones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perflow import artifacts, record
from perflow.config import TABLES, Study, places
from perflow.errors import PerflowError

DIFFERENCES = SAME, DIFFERS, NEAR, FAR, OTHER, MISSING = "same", "differs", "near", "far", "other", "missing"
TOLERANCE = 1.0
"""Largest difference of a metric, in half widths of its own interval: at 1 the other value lies inside it."""


class Difference(NamedTuple):
    """How one artifact differs.

    *same*: its bytes are equal. *differs*: they are not, and it holds no metrics. *near*, *far*: its metrics
    differ within, or beyond the tolerance. *other*: it was made for another spec, or has other files or tensors.
    """

    artifact: str
    state: str
    lines: list[str]


def compare(study: Study, home: Path, other: Path, tolerance: float = TOLERANCE) -> Iterator[Difference]:
    """Compare every row a study names with that of the results folder ``other`` (and of ``data`` beside it)."""
    if not other.is_dir():
        raise PerflowError(f"--against {other}: no such folder; give the results folder of another clone")
    for table in TABLES:
        if table == "splits" and not (other.parent / "data").is_dir():
            continue
        for name in getattr(study, table):
            place = places.record(table, name)
            there = other.parent / place if table == "splits" else other / place.relative_to("results")
            try:
                state, lines = _compared(home / place, there, tolerance)
            except PerflowError as error:
                state, lines = OTHER, [str(error)]
            yield Difference(f"{table}/{name}", state, lines)


def _compared(here: Path, there: Path, tolerance: float) -> tuple[str, list[str]]:
    for path in (here, there):
        if not path.is_file():
            return MISSING, [f"{path}: missing"]
    own, its = record.read(here), record.read(there)
    if own["spec"] != its["spec"]:
        return OTHER, [f"{there}: of spec {its['spec'][:12]}, here {own['spec'][:12]} (other settings or code)"]
    files = {path.relative_to(here.parent).as_posix(): path for path in record.files(here, own)}
    others = {path.relative_to(there.parent).as_posix(): path for path in record.files(there, its)}
    if files.keys() != others.keys():
        return OTHER, [f"{there}: other files: {', '.join(sorted(files.keys() ^ others.keys()))}"]
    changed = [name for name in files if artifacts.sha256_file(files[name]) != artifacts.sha256_file(others[name])]
    if not changed:
        return SAME, []
    state, lines = DIFFERS, []
    for name in changed:
        if name.endswith(".safetensors"):
            lines.append(_tensors(files[name], others[name]))
        elif name.endswith(".json"):
            share, line = _metrics(files[name], others[name])
            if share is not None:
                state = NEAR if share <= tolerance else FAR
                lines.append(line)
    return state, lines or [f"{there.parent / changed[0]}: other bytes"]


def _tensors(here: Path, there: Path) -> str:
    """The largest difference between two files of tensors."""
    own, its = artifacts.read_tensors(here)[0], artifacts.read_tensors(there)[0]
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in its.items()}:
        raise PerflowError(f"{there}: other tensors than {here}")
    apart = {name: _apart(own[name], its[name]) for name in own}
    name = max(apart, key=apart.__getitem__, default="")
    return f"{there}: tensors differ by at most {apart.get(name, 0):.3g} ({name})"


def _apart(own: Any, its: Any) -> float:
    largest = float((own.double() - its.double()).abs().max()) if own.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def _metrics(here: Path, there: Path) -> tuple[float | None, str]:
    """The largest difference of a metric, in half widths of its interval here; None where there are no metrics."""
    own, its = (dict(_estimates(artifacts.read_json(path))) for path in (here, there))
    if own.keys() != its.keys():
        raise PerflowError(f"{there}: other metrics than {here}: {', '.join(sorted(own.keys() ^ its.keys())[:4])}")
    if not own:
        return None, ""
    share = {name: _share(value, its[name]) for name, value in own.items()}
    name = max(share, key=share.__getitem__)
    apart = abs(own[name]["value"] - its[name]["value"])
    return share[name], (
        f"{there}: metrics differ by at most {share[name]:.3g} of their interval's half width"
        f" ({name}: {own[name]['value']:.6g} here, {apart:.3g} apart)"
    )


def _estimates(value: Any, name: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Every value with an interval, by its place."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _estimates(inner, f"{name}.{key}".strip("."))


def _share(own: dict[str, float], its: dict[str, float]) -> float:
    apart, half = abs(own["value"] - its["value"]), (own["high"] - own["low"]) / 2
    return apart / half if half else math.inf if apart else 0.0
