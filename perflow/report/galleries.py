"""Samples side by side: a row a method, a column an item, every column from the same noise and prompt."""

from __future__ import annotations

import io
import textwrap
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
from matplotlib.figure import Figure
from PIL import Image

from perflow import artifacts
from perflow.core import WINDOW
from perflow.errors import PerflowError
from perflow.report.data import Report
from perflow.report.drawing import style
from perflow.report.figures import common_windows
from perflow.report.study import is_reference, label
from perflow.report.tables import samples_folder, samples_manifest
from perflow.report.transfers import drawn_in
from perflow.report.words import count, in_steps

_DPI = 150
_CELL, _GAP, _LEFT, _LINE = 96, 8, 400, 17
"""In pixels: about the width of an image, the space between two, the room for names, a line of a prompt."""
_COLUMNS = 12
_SHOWN = {
    "text": "What the ControlNet is shown",
    "image": "What the pipeline starts from",
    "inpaint": "What the pipeline keeps\ngrey: to be painted",
}
"""What a setting of a task shows a pipeline besides prompts."""


def shown_steps(report: Report, base: str) -> list[int]:
    """Numbers of steps worth a gallery: of those that most methods share, the smallest and the largest; last 0, if
    there are solvers that decide as they go."""
    found = [arm["steps"] for arm in _arms(report, base)]
    times = Counter(steps for steps in found if steps)
    shared = [steps for steps, methods in times.items() if methods == max(times.values())]
    return (sorted({min(shared), max(shared)}) if shared else []) + ([0] if 0 in found else [])


def pictured(report: Report, base: str) -> bool:
    """Whether samples on a base are images; points on the plane are not."""
    return all("images" in trial for trial in _manifest(report, base)["trials"].values())


def gallery(report: Report, base: str, steps: int) -> Figure:
    """An item each of evenly spaced prompts, for the teacher and every method at ``steps`` steps."""
    return _by_prompt(report, base, [arm for arm in _arms(report, base) if arm["steps"] == steps])


def by_windows(report: Report, base: str, entry: str) -> Figure:
    """As :func:`gallery`, for one entry with its several numbers of windows, one step a window."""
    arms = [arm for arm in report.wide() if arm["base"] == base and arm["entry"] == entry and arm["solver"] == WINDOW]
    return _by_prompt(report, base, [arm for arm in arms if arm["steps"] == arm["windows"]])


def variety(report: Report, base: str, steps: int) -> tuple[Figure, str]:
    """All items of one prompt, and that prompt: how much the samples of one caption vary, for the same methods.

    The prompt is the first that leaves something unspecified, since its samples may differ in more than style.
    """
    manifest = _manifest(report, base)
    prompts, per = manifest["prompts"], manifest["per_prompt"]
    chosen = next((i for i, prompt in enumerate(prompts) if None in prompt.values()), 0)
    items = list(range(chosen * per, (chosen + 1) * per))[:_COLUMNS]
    arms = [_teacher(report, base), *(arm for arm in _arms(report, base) if arm["steps"] == steps)]
    return _draw([_row(report, arm, items) for arm in arms], [""] * len(items)), prompts[chosen]["text"]


def shown_base(lines: list[dict[str, Any]]) -> str:
    """Of a setting's lines the base whose samples are shown: the fine-tune itself where there is one."""
    return max(lines, key=lambda line: (line["scale"] <= 1, line["scale"]))["base"]


def elsewhere(report: Report, setting: str, base: str, steps: int) -> Figure:
    """An item each of evenly spaced prompts in a setting: its teacher, the base at ``steps`` steps, then deltas; above
    them what the pipeline is shown besides the prompt, where it is."""
    study = report.study
    scene = [row for row in study["transfers"] if (row["setting"], row["base"]) == (setting, base)]
    rows, chosen, prompts = [], [], []
    for role, model, place in drawn_in(study, scene):
        manifest = samples_manifest(place, report.results)
        if not chosen:
            prompts = manifest["prompts"]
            chosen = _spaced(prompts)
            if "shown" in manifest:
                rows.append((_SHOWN[place["task"]], _read(_beside(report, place, manifest["shown"]), chosen)))
        for trial in place["trials"]:
            teacher = is_reference(model["kind"], trial["name"])
            if trial["stream"] == 0 and (teacher or trial["steps"] == steps):
                name = label(model, trial, False) + (", its own" if role == "own" else "")
                items = [i * manifest["per_prompt"] for i in chosen]
                rows.append((_name(name, trial), _images(report, place, trial["name"], items)))
    return _draw(rows, [prompts[i]["text"] for i in chosen])


def _by_prompt(report: Report, base: str, arms: list[dict[str, Any]]) -> Figure:
    manifest = _manifest(report, base)
    prompts, per = manifest["prompts"], manifest["per_prompt"]
    chosen = _spaced(prompts)
    rows = [_row(report, arm, [i * per for i in chosen]) for arm in [_teacher(report, base), *arms]]
    return _draw(rows, [prompts[i]["text"] for i in chosen])


def _spaced(prompts: list[Any]) -> list[int]:
    """Which prompts have a column: as many as there is room for, evenly spaced."""
    columns = min(_COLUMNS, len(prompts))
    return [i * len(prompts) // columns for i in range(columns)]


def _manifest(report: Report, model: str) -> dict[str, Any]:
    return samples_manifest(_model(report, model), report.results)


def _model(report: Report, name: str) -> dict[str, Any]:
    return next(row for row in report.study["models"] if row["name"] == name)


def _teacher(report: Report, base: str) -> dict[str, Any]:
    return next(arm for arm in report.wide() if arm["base"] == base and arm["reference"] and not arm["stream"])


def _arms(report: Report, base: str) -> list[dict[str, Any]]:
    """What is drawn at a number of steps: the training-free solvers, and of each entry its common windows."""
    windows = common_windows(report)
    return [
        arm
        for arm in report.wide()
        if arm["base"] == base and not arm["reference"] and (not arm["windowed"] or arm["windows"] == windows)
    ]


def _row(report: Report, arm: dict[str, Any], items: list[int]) -> tuple[str, list[numpy.ndarray]]:
    """A method's name, and its images of ``items`` from its first training seed."""
    rows = report.tables["rows"]
    model = rows[(rows["key"] == arm["key"]) & (rows["trial"] == arm["trial"])].sort_values("seed")["model"].iloc[0]
    return _name(arm["label"], arm), _images(report, _model(report, model), arm["trial"], items)


def _name(label: str, trial: dict[str, Any]) -> str:
    return f"{label}\n{in_steps(trial['steps'])}, {count(trial['nfe'], 'evaluation')}"


def _images(report: Report, place: dict[str, Any], trial: str, items: list[int]) -> list[numpy.ndarray]:
    """Some images of a trial of a model or transfer; PerflowError naming an archive that was altered."""
    entry = samples_manifest(place, report.results)["trials"][trial]["images"]
    return _read(_beside(report, place, entry), items)


def _beside(report: Report, place: dict[str, Any], entry: dict[str, Any]) -> Path:
    return artifacts.beside(samples_folder(place, report.results) / "manifest.json", entry)


def _read(path: Path, items: list[int]) -> list[numpy.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            files = [archive.read(f"{item:05d}.png") for item in items]
        return [_fitted(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise PerflowError(f"{path}: not a complete archive of samples ({error}); delete it and run again") from None


def _fitted(image: Image.Image) -> numpy.ndarray:
    """Pixels of an image, made smaller if it is much larger than its place."""
    if image.width > 2 * _CELL:
        image = image.resize((2 * _CELL, round(2 * _CELL * image.height / image.width)), Image.Resampling.LANCZOS)
    return numpy.asarray(image)


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
    wrapped = [textwrap.wrap(prompt, 13)[:8] for prompt in prompts]
    top = _LINE * max(len(lines) for lines in wrapped) + 14
    full_x, full_y = _LEFT + mosaic.shape[1], top + mosaic.shape[0]
    with style():
        figure = Figure(figsize=(full_x / _DPI, full_y / _DPI), dpi=_DPI)
        axes = figure.add_axes((_LEFT / full_x, 0, mosaic.shape[1] / full_x, mosaic.shape[0] / full_y))
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for r, (name, _) in enumerate(rows):
            y = 1 - (top + r * step_y + height * scale / 2) / full_y
            figure.text((_LEFT - 16) / full_x, y, name, ha="right", va="center", fontsize=8)
        for c, lines in enumerate(wrapped):
            x = (_LEFT + c * step_x + width * scale / 2) / full_x
            figure.text(x, 1 - (top - 8) / full_y, "\n".join(lines), ha="center", va="bottom", fontsize=6.5)
    return figure
