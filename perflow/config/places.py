"""Where a study and its rows lie, as the rules write it: paths below the study's home."""

from __future__ import annotations

from pathlib import Path

VERBS = {
    "splits": "fetch", "prompts": "prompts", "bases": "base", "extractors": "extractor", "latents": "encode",
    "adapters": "adapt", "pairs": "cache", "students": "train", "deltas": "export", "samples": "sample",
    "transfers": "transfer", "evaluations": "evaluate",
}  # fmt: skip
"""Table -> the verb that makes its rows, which is also the rule, and the folder of its logs."""

_RECORDS = {
    "splits": "data/{}/cost.json",
    "deltas": "results/students/{}/export.cost.json",
    "evaluations": "results/metrics/{}.cost.json",
}


FEATURES = Path("results/features")
"""What large feature networks saw, by content; of no row, and made again where it is missing."""
SPECS = Path("results/specs")
SUMMARY = SPECS / "study.json"
"""What the report and the tracker read of the study as a whole."""


def spec(table: str, name: str) -> Path:
    """The spec of a row."""
    return SPECS / table / f"{name}.json"


def record(table: str, name: str) -> Path:
    """The record (``cost.json``) of a row; its outputs lie beside it."""
    return Path(_RECORDS.get(table, f"results/{table}/{{}}/cost.json").format(name))


def home(params: str | Path, root: str | Path = ".") -> Path:
    """The folder a study lives in: the repository for its params.yaml, else studies/<file name>/ (ADR 9)."""
    params, root = Path(params).resolve(), Path(root).resolve()
    return root if params == root / "params.yaml" else root / "studies" / params.stem
