"""Samples side by side: a row a method, a column an item, every column from the same noise and prompt."""

from __future__ import annotations

import io
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure
from PIL import Image

from perflow.errors import PerflowError
from perflow.report.data import Report
from perflow.report.drawing import style
from perflow.report.figures import common_windows
from perflow.report.tables import samples_manifest
from perflow.report.words import count

_DPI = 150
_CELL, _GAP, _LEFT, _TOP = 96, 8, 400, 150
"""In pixels: about the width of an image, the space between two, the room for names and for prompts."""


def gallery(report: Report, base: str, steps: int, columns: int = 12) -> Figure:
    """One item each of ``columns`` prompts, for the teacher and every method at ``steps`` steps."""
    return _gallery(report, _rows(report, base, steps), lambda per, total: range(0, total, per), columns)


def variety(report: Report, base: str, steps: int, prompt: int = 0) -> Figure:
    """All items of one prompt: how much the samples of one caption vary, for the same methods."""
    return _gallery(
        report, _rows(report, base, steps), lambda per, total: range(prompt * per, min((prompt + 1) * per, total)), 12
    )


def open_prompt(report: Report, base: str) -> int:
    """The first prompt that leaves something unspecified, since its samples may differ in more than style; else 0."""
    model = next(model for model in report.study["models"] if model["name"] == base)
    prompts = samples_manifest(model, report.results)["prompts"]
    return next((i for i, prompt in enumerate(prompts) if None in prompt.values()), 0)


def _rows(report: Report, base: str, steps: int) -> list[dict[str, Any]]:
    windows = common_windows(report)
    arms = [arm for arm in report.wide() if arm["base"] == base and not arm["stream"]]
    return [
        arm
        for arm in arms
        if arm["trial"] == "teacher" or (arm["steps"] == steps and (not arm["windowed"] or arm["windows"] == windows))
    ]


def _gallery(report: Report, arms: list[dict[str, Any]], choose: Any, columns: int) -> Figure:
    models = {model["name"]: model for model in report.study["models"]}
    rows, prompts = [], []
    for arm in arms:
        model = _first_seed(report, arm)
        manifest = samples_manifest(models[model], report.results)
        per, total = manifest["per_prompt"], manifest["per_prompt"] * len(manifest["prompts"])
        items = list(choose(per, total))
        items = [items[i * len(items) // min(columns, len(items))] for i in range(min(columns, len(items)))]
        prompts = [manifest["prompts"][item // per]["text"] for item in items]
        file = report.results / "samples" / model / manifest["trials"][arm["trial"]]["images"]["file"]
        rows.append(
            (f"{arm['label']}\n{count(arm['steps'], 'step')}, {count(arm['nfe'], 'evaluation')}", _read(file, items))
        )
    return _draw(rows, prompts)


def _first_seed(report: Report, arm: dict[str, Any]) -> str:
    rows = report.tables["rows"]
    return rows[(rows["key"] == arm["key"]) & (rows["trial"] == arm["trial"])].sort_values("seed")["model"].iloc[0]


def _read(path: Path, items: list[int]) -> list[numpy.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [numpy.asarray(Image.open(io.BytesIO(archive.read(f"{i:05d}.png"))).convert("RGB")) for i in items]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise PerflowError(f"{path}: not a complete archive of samples ({error}); run the workflow again") from None


def _draw(rows: list[tuple[str, list[numpy.ndarray]]], prompts: list[str]) -> Figure:
    """Names left, prompts above. A pixel of an image is a whole number of pixels of the figure, so it stays sharp."""
    height, width = rows[0][1][0].shape[:2]
    scale = max(1, round(_CELL / width))
    step_x, step_y = width * scale + _GAP, height * scale + _GAP
    mosaic = numpy.full((step_y * len(rows) - _GAP, step_x * len(prompts) - _GAP, 3), 255, numpy.uint8)
    for r, (_, images) in enumerate(rows):
        for c, image in enumerate(images):
            large = image.repeat(scale, axis=0).repeat(scale, axis=1)
            mosaic[r * step_y : r * step_y + height * scale, c * step_x : c * step_x + width * scale] = large
    full_x, full_y = _LEFT + mosaic.shape[1], _TOP + mosaic.shape[0]
    with style():
        figure = Figure(figsize=(full_x / _DPI, full_y / _DPI), dpi=_DPI)
        axes = figure.add_axes((_LEFT / full_x, 0, mosaic.shape[1] / full_x, mosaic.shape[0] / full_y))
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for r, (name, _) in enumerate(rows):
            y = 1 - (_TOP + r * step_y + height * scale / 2) / full_y
            figure.text((_LEFT - 16) / full_x, y, name, ha="right", va="center", fontsize=8)
        for c, prompt in enumerate(prompts):
            x = (_LEFT + c * step_x + width * scale / 2) / full_x
            text = "\n".join(textwrap.wrap(prompt, 13)[:7])
            figure.text(x, 1 - (_TOP - 10) / full_y, text, ha="center", va="bottom", fontsize=6.5)
    return figure
