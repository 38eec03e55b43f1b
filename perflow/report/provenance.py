"""Where the numbers come from: code, libraries, specs, MLflow runs."""

from __future__ import annotations

import importlib.metadata
import platform
from html import escape
from typing import Any

from perflow.checkout import checkout
from perflow.report.data import Report
from perflow.report.html import Cell, Html, folded, table

_LIBRARIES = ("torch", "diffusers", "transformers", "datasets", "accelerate", "safetensors", "numpy", "scipy")


def provenance(report: Report) -> Html:
    """Which code, which libraries, which specs, which MLflow runs."""
    versions = [("git commit", checkout().describe()), ("Python", platform.python_version())]
    versions += [(name, _version(name)) for name in _LIBRARIES]
    parent = next((run for key, run in report.runs.items() if key.startswith("study/")), "")
    versions.append(("MLflow run of the study", parent))
    rows = [[Cell(escape(name), 1, "method"), version] for name, version in versions]
    header = ["table", "row", "spec", "spec of its evaluation", "MLflow run"]
    specs = table(header, [_line(report, *row) for row in _specs(report.study)], "", "text")
    made = table(["what", "version"], rows, "This page was made with", "text")
    return Html(made + folded("rows, specs and MLflow runs", specs))


def _specs(study: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(table, row, spec, spec of its evaluation) of everything that was trained or cached."""
    evaluated = {model["name"]: model["spec"] for model in study["models"]}
    rows = [("bases", row["name"], row["spec"], evaluated[row["name"]]) for row in study["bases"]]
    rows += [
        (name, row["name"], row["spec"], "") for name in ("extractors", "adapters", "pairs") for row in study[name]
    ]
    students = [model for model in study["models"] if model["kind"] == "student"]
    return rows + [("students", model["name"], model["model_spec"], model["spec"]) for model in students]


def _line(report: Report, name: str, row: str, spec: str, evaluation: str) -> list[Cell]:
    codes = [spec[:12], evaluation[:12], report.runs.get(f"{name}/{row}", "")]
    return [Cell(name, 1, "method"), Cell(escape(row)), *(Cell(f"<code>{escape(code)}</code>") for code in codes)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
