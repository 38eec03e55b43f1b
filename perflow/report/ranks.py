"""What a delta loses as a LoRA of a rank: the error of its weights, and what the study's settings measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.report.estimates import estimate, measured_in, trial
from perflow.report.markup import table
from perflow.report.study import metric_name
from perflow.report.words import number

NOT_MEASURED = "not measured"
_PLACE = ("base", "task", "adapter", "strength")
"""What two settings share that differ in the rank alone."""


class Ranked(NamedTuple):
    """A delta in a setting."""

    rank: int | None
    """Of the LoRA it is loaded as; None: whole."""
    setting: str
    base: str
    trials: list[dict[str, Any]]
    """With their ``metrics``; none where the setting is not measured yet."""


def ranked(student: str, results: Path) -> list[Ranked]:
    """The settings of a study that load a student's delta as a LoRA, each after the same setting with the whole delta.

    PerflowError for metrics of another row than the study's.
    """
    study = artifacts.read_json(results / "specs" / "study.json")
    alone = next(model for model in study["models"] if model["name"] == student)
    alone = alone | {"label": "on its base", "task": "text", "adapter": None, "strength": 1.0, "rank": None}
    rows = [row for row in study["transfers"] if row["model"] == student]
    places = dict.fromkeys(_place(row) for row in rows if row["rank"] is not None)
    found = []
    for place in places:
        here = [row for row in rows if _place(row) == place]
        if all(row["rank"] is not None for row in here) and _place(alone) == place:
            here.append(alone)
        here.sort(key=lambda row: (row["rank"] is not None, -(row["rank"] or 0)))
        found += [Ranked(row["rank"], row["label"], row["base"], _trials(row, results)) for row in here]
    return found


def section(found: list[Ranked], errors: Mapping[int, float], extractor: str) -> str:
    """As Markdown: the ranks of ``errors``, their relative errors, and the metrics of every trial with each."""
    bases = {row.base for row in found if row.rank in errors}
    rows = [row for row in found if row.rank in errors or (row.rank is None and row.base in bases)]
    if not bases:
        which = f" of rank {', '.join(map(str, errors))}" if errors else ""
        return f"As a LoRA{which}: {NOT_MEASURED}. `perflow lora` prints the error of every rank of a delta."
    names = measured_in(each for row in rows for each in row.trials)
    lines = [["rank", "relative error", "setting", "base", "trial", *(metric_name(name, extractor) for name in names)]]
    for row in rows:
        cut = ("whole", "0") if row.rank is None else (str(row.rank), number(errors[row.rank]))
        for each in row.trials:
            cells = [estimate(each["metrics"].get(name)) or NOT_MEASURED for name in names]
            lines.append([*cut, row.setting, row.base, trial(each), *(cells or [NOT_MEASURED])])
    if not names:
        lines[0].append("metrics")
    return (
        "As a LoRA: each matrix of the delta cut to a rank by its singular values. The relative error is one of"
        " weights, the metrics are of images drawn with that LoRA, against the teacher of the same base; brackets as"
        " above.\n\n" + table(lines[0], lines[1:])
    )


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _PLACE)


def _trials(row: Mapping[str, Any], results: Path) -> list[dict[str, Any]]:
    path = results / "metrics" / f"{row['name']}.json"
    if not path.is_file():
        return [trial | {"metrics": {}} for trial in row["trials"]]
    found = artifacts.read_json(path)
    if found["spec"] != row["spec"]:
        raise PerflowError(
            f"{path}: was made for another spec than the study's '{row['name']}'; run the workflow again"
        )
    return list(found["trials"].values())
