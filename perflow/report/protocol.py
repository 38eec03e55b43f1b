"""The protocol behind the numbers: what one has to know to read them, and params.yaml as a whole."""

from __future__ import annotations

from html import escape
from pathlib import PurePath
from typing import Any

from perflow.core.grid import dashed, spread
from perflow.datasets import POINTS
from perflow.report.data import Report
from perflow.report.html import Cell, Html, folded, pre, table
from perflow.report.words import count


def settings(report: Report) -> Html:
    """The settings as a table; below it, folded, params.yaml and the combinations that were left out."""
    study = report.study
    rows = [[Cell(escape(name), 1, "method"), value] for name, value in _rows(report, study["settings"])]
    parts = [table(["setting", "value"], rows, "", "text"), folded("params.yaml", pre(study["params_text"]))]
    if skipped := [[row["row"], row["why"]] for row in study["skipped"]]:
        title = f"{count(len(skipped), 'combination')} left out"
        parts.append(folded(title, table(["combination", "why"], skipped, "", "text")))
    return Html("".join(parts))


def _rows(report: Report, chosen: dict[str, Any]) -> list[tuple[str, str]]:
    teacher, sampling, training = report.study["teacher"], chosen["sampling"], chosen["training"]
    evaluation = chosen["evaluation"]
    by = chosen["extractors"].get(evaluation["extractor"], {}).get("standardise")
    data = (
        f"{name}: {row['source']}, points"
        if row["source"] in POINTS
        else f"{name}: {row['source']}, {row['resolution']} × {row['resolution']} pixels"
        for name, row in chosen["datasets"].items()
    )
    return [
        ("data", "; ".join(data)),
        ("teacher", f"{teacher['solver']}, {count(teacher['steps'], 'step')}, guidance {teacher['guidance']:g}"),
        *((f"pairs {name}", _pairs(row)) for name, row in chosen["pairs"].items()),
        (
            "training, unless a row says otherwise",
            f"{count(training['steps'], 'step')} of {training['batch']}, learning rate {training['lr']:g}, "
            f"EMA {training['ema']:g}",
        ),
        ("samples", _samples(sampling)),
        ("features", f"{report.extractor}{_accuracy(report)}"),
        *((("standardised by", f"images of {by}, split base"),) if by else ()),
        *((f"real images of {name}", _real(row)) for name, row in evaluation.get("real", {}).items()),
        *((word, evaluation[kind]) for kind, word in (("clip", "CLIP"), ("lpips", "LPIPS")) if evaluation.get(kind)),
        (
            "intervals",
            f"jackknife over {evaluation['groups']} groups of prompts, {100 * evaluation['confidence']:g} %",
        ),
        ("seed of the study", str(report.study["seed"])),
    ]


def _samples(sampling: dict[str, Any]) -> str:
    own = sampling.get("prompt_list") or {}
    source = f" of {PurePath(own['file']).name}" if own else ""
    away = f", away from {own['negative']!r}" if own.get("negative") else ""
    away = ", away from a negative prompt each" if own.get("negative_column") else away
    return f"{sampling['prompts']} prompts{source} × {sampling['per_prompt']}{away}, the same noise for every method"


def _pairs(row: dict[str, Any]) -> str:
    guidance = spread(row["guidance"])
    mode = "CFG-sync" if row["guidance"] == 1 else f"CFG-fixed at {guidance}"
    if isinstance(row["guidance"], list):
        mode = f"CFG-embedded, guidance {guidance}"
    if row.get("ends") == "data":
        return f"{row['count']:,} window pairs with no teacher, CFG-sync, starts and ends: data"
    if row.get("teacher"):
        mode = f"made by {row['teacher']} at guidance {guidance}"
    return (
        f"{row['count']:,} window pairs, {mode}, starts: {row['starts']}, "
        f"{dashed(row['solver'])} with {count(row['steps'], 'step')}"
    )


def _real(row: dict[str, Any]) -> str:
    maker = f"by {row['made_by']}" if "made_by" in row else "by the network it names"
    return f"features or statistics of {PurePath(row['features']).name}, sha256 {row['sha256'][:12]}…, {maker}"


def _accuracy(report: Report) -> str:
    value = report.extractor_accuracy()
    if isinstance(value, dict):
        return ", accuracy on held-out images: " + ", ".join(f"{name} {share:.3f}" for name, share in value.items())
    return f", accuracy on held-out images {value:.3f}" if value is not None else ""
