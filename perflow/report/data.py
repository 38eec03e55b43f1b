"""What the report reads: the study, the collected tables, the published figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.report.study import features, is_reference, leading, read_study
from perflow.report.tables import TABLES
from perflow.report.words import scale


@dataclass(frozen=True)
class Report:
    """Everything a section or a figure draws on."""

    study: dict[str, Any]
    results: Path
    tables: dict[str, pandas.DataFrame]
    published: dict[str, Any]

    @property
    def main(self) -> pandas.DataFrame:
        """Methods by metrics, one line each."""
        return self.tables["main"]

    @property
    def runs(self) -> dict[str, str]:
        """Row -> id of its MLflow run."""
        return dict(zip(self.tables["runs"]["row"], self.tables["runs"]["run"], strict=True))

    @property
    def extractor(self) -> str:
        """Name of the feature network, as the names of metrics say it."""
        return features(self.study)

    def extractor_accuracy(self) -> float | dict[str, float] | None:
        """Accuracy of the feature network on images it has not seen: one number, or one an attribute."""
        first = self.study["models"][0]["name"]
        return artifacts.read_json(self.results / "metrics" / f"{first}.json")["extractor"].get("accuracy")

    def of_setting(self, setting: str) -> list[dict[str, Any]]:
        """The lines of compatibility.csv of one setting."""
        return [line for line in records(self.tables["compatibility"]) if line["setting"] == setting]

    def shown(self, metric: str) -> str:
        """``metric``, or where the study does not evaluate it, the one that stands for quality instead."""
        measured = set(self.main["metric"])
        return metric if metric in measured else leading(measured) or metric

    def wide(self) -> list[dict[str, Any]]:
        """See :func:`wide`."""
        return wide(self.main)


def wide(main: pandas.DataFrame) -> list[dict[str, Any]]:
    """A dict for each method at each number of steps.

    Its description, ``reference`` (whether it stands for the teacher), and ``metrics``: metric -> line of the table,
    with the ``scale`` at which all values of the metric are shown.
    """
    arms: dict[tuple[str, str], dict[str, Any]] = {}
    scales = {metric: scale(metric, lines["value"]) for metric, lines in main.groupby("metric")}
    for line in records(main):
        line["scale"] = scales[line["metric"]]
        described = line | {"reference": is_reference(line["kind"], line["trial"]), "metrics": {}}
        arms.setdefault((line["key"], line["trial"]), described)["metrics"][line["metric"]] = line
    return list(arms.values())


def records(frame: pandas.DataFrame) -> list[dict[str, Any]]:
    """Lines of a table as dicts; an empty cell is None."""
    return [
        {name: None if pandas.isna(value) else value for name, value in line.items()}
        for line in frame.to_dict(orient="records")
    ]


def load(study_spec: str | Path, results_dir: str | Path, published: str | Path) -> Report:
    """Read what :func:`perflow.report.tables.collect` wrote."""
    results = Path(results_dir)
    return Report(
        read_study(study_spec),
        results,
        {name: read_table(results / "tables" / f"{name}.csv") for name in (*TABLES, "runs")},
        artifacts.read_json(published),
    )


def read_table(path: Path) -> pandas.DataFrame:
    """One of the csv files of results/tables; PerflowError naming it if it is missing or broken."""
    try:
        return pandas.read_csv(path)
    except (OSError, ValueError) as error:
        raise PerflowError(f"{path}: not a readable table ({error}); perflow report writes it") from None
