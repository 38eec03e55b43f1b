"""The sections of the report, in the order of the notebook, which only calls them."""

from __future__ import annotations

from html import escape
from typing import Any

from perflow.report import figures, galleries
from perflow.report.data import Report, records
from perflow.report.html import Cell, Html, badge, figure, folded, paragraph, table
from perflow.report.study import metric_name
from perflow.report.words import (
    NOT_TESTED,
    cost,
    count,
    in_steps,
    listed,
    number,
    probability,
    seconds,
    sentence,
    signed,
    size,
    verdict,
)


def _bases(report: Report) -> list[str]:
    return list(dict.fromkeys(model["base"] for model in report.study["models"]))


def _joined(parts: Any) -> Html:
    return Html("".join(part for part in parts if part))


def opening(report: Report) -> Html:
    """What was done, in numbers, and how the published orderings came out."""
    models = report.study["models"]
    students = [model for model in models if model["kind"] == "student"]
    sampling = report.study["settings"]["sampling"]
    rows = records(report.tables["comparisons"])
    found = _verdicts(report, rows)
    tested = [item for item in found if item != NOT_TESTED]
    kinds = {kind: tested.count(kind) for kind in ("seen", "not seen", "within noise")}
    said = [f"{times} {kind}" for kind, times in kinds.items() if times]
    if mixed := len(tested) - sum(kinds.values()):
        said.append(f"{mixed} seen in part")
    cards = [
        ("base" if len(_bases(report)) == 1 else "bases", len(_bases(report))),
        ("trained students", len(students)),
        ("trials", sum(len(model["trials"]) for model in models)),
        ("samples a trial", sampling["prompts"] * sampling["per_prompt"]),
        ("comparisons", len(rows)),
    ]
    shown = "".join(f"<div><b>{value:,}</b><span>{escape(name)}</span></div>" for name, value in cards)
    text = f"Of {count(len(found), 'ordering')} looked for, {len(tested)} could be tested"
    text += f": {listed(said)}." if said else "."
    if len(found) > len(tested):
        text += f" {len(found) - len(tested)} need rows or metrics that this study does not have."
    return Html(f'<div class="cards">{shown}</div>{paragraph(text)}')


def _orderings(report: Report) -> list[dict[str, Any]]:
    return report.published["orderings"]


def _verdicts(report: Report, rows: list[dict[str, Any]]) -> list[str]:
    return [verdict([row for row in rows if row["ordering"] == item["name"]]) for item in _orderings(report)]


def quality(report: Report, metric: str = "fd_teacher") -> Html:
    """A metric against network evaluations and against steps, a figure for each base."""
    metric = report.shown(metric)
    windows = figures.common_windows(report)
    only = f" Where an entry has several numbers of windows, K = {windows} is drawn." if windows else ""
    name = metric_name(metric, report.extractor)
    caption = f"{name}; bars are intervals over noise and prompts. Grey: training-free.{only}"
    return _joined(
        figure(figures.quality(report, base, metric), _on(report, base) + caption) for base in _bases(report)
    )


def _on(report: Report, base: str) -> str:
    return f"Base {base}. " if len(_bases(report)) > 1 else ""


def ablation(report: Report, metric: str = "fd_teacher") -> Html:
    """A metric against the number of windows."""
    if not len(report.tables["ablation"]):
        return Html("")
    metric = report.shown(metric)
    name = metric_name(metric, report.extractor)
    caption = f"{name} against the number of windows K. Dashed: the same number of steps for every K."
    bases = [base for base in _bases(report) if base in set(report.tables["ablation"]["base"])]
    return _joined(figure(figures.ablation(report, base, metric), _on(report, base) + caption) for base in bases)


def readings(report: Report) -> Html:
    """Each ordering, where it comes from, what this study says about it, and the comparisons behind that."""
    lines = records(report.tables["comparisons"])
    return _joined(
        _reading(
            ordering, [line for line in lines if line["ordering"] == ordering["name"]], _untested(report, ordering)
        )
        for ordering in _orderings(report)
    )


def _untested(report: Report, ordering: dict[str, Any]) -> str:
    """Why there is no comparison of an ordering, where there is none."""
    if ordering["metric"] in set(report.main["metric"]):
        return "No rows of this study test it."
    return f"This study does not evaluate its metric, {metric_name(ordering['metric'], report.extractor)}."


def _reading(ordering: dict[str, Any], lines: list[dict[str, Any]], untested: str) -> str:
    arms = dict.fromkeys((line["base"], line["better_key"], line["better_trial"]) for line in lines)
    said = [
        sentence([line for line in lines if (line["base"], line["better_key"], line["better_trial"]) == arm])
        for arm in arms
    ]
    notes = dict.fromkeys(note for line in lines if line["note"] for note in line["note"].split("; "))
    said += [f"Note: {note}." for note in notes]
    items = "".join(f"<li>{escape(text)}</li>" for text in said or [untested])
    return (
        f'<section class="reading"><h3>{badge(verdict(lines))} {escape(ordering["claim"])}</h3>'
        f'<p class="source">Source: {escape(ordering["source"])}.</p><ul>{items}</ul>{_compared(lines)}</section>'
    )


def _compared(lines: list[dict[str, Any]]) -> str:
    """The differences behind a reading, with intervals and corrected p-values."""
    if not lines:
        return ""
    rows = [
        [
            Cell(f"{escape(line['better'])}<small>{escape(cost(line, 'better'))}</small>", 1, "method"),
            Cell(f"{escape(line['worse'])}<small>{escape(cost(line, 'worse'))}</small>", 1, "method"),
            Cell(f"{signed(line['difference'])}<small>[{signed(line['low'])}, {signed(line['high'])}]</small>"),
            Cell(signed(line["error"])[1:]), Cell(probability(line["p"])), Cell(probability(line["p_holm"])),
            Cell(badge(line["verdict"])),
        ]
        for line in lines
    ]  # fmt: skip
    header = ["this", "against", "difference", "standard error", "p", "p, corrected", "verdict"]
    return folded(count(len(rows), "comparison"), table(header, rows))


def published(report: Report, about: str = "") -> Html:
    """Figures other people published, on other data, with their sources; of those alone whose title begins so."""
    parts = []
    for item in report.published["figures"]:
        if not item["title"].startswith(about):
            continue
        source = escape(item["source"])
        if item["url"]:
            source = f'<a href="{escape(item["url"])}">{source}</a>'
        note = f" {escape(item['note'])}" if item["note"] else ""
        parts.append(table(item["columns"], item["rows"], f"Published on other data: {item['title']}", "published"))
        parts.append(f'<p class="source">Source: {source}.{note}</p>')
    return _joined(parts)


def flow(report: Report) -> Html:
    """Curvature and end-point error by window."""
    caption = (
        "By window, over time from noise (t = 1) to data (t = 0). Above: curvature of the path, 0 is straight; the "
        "student's own (solid) and the teacher's from the same states (dotted). Below: squared error of one student "
        "step across the window, relative to the way the teacher goes."
    )
    drawn = [(base, figures.flow(report, base)) for base in _bases(report)]
    return _joined(figure(image, _on(report, base) + caption) for base, image in drawn if image)


def curves(report: Report) -> Html:
    """Training losses."""
    caption = "Smoothed training loss of every student; losses of different parameterisations are in different units."
    others = [name for name in ("bases", "adapters", "extractors") if (report.tables["curves"]["table"] == name).any()]
    drawn = [figure(figures.curves(report, name), f"Smoothed training loss of the {name}.") for name in others]
    return _joined((figure(figures.curves(report), caption), folded("bases, adapters and extractors", _joined(drawn))))


def samples(report: Report) -> Html:
    """Samples at the numbers of steps most methods share: an item of many prompts, then many items of one prompt."""
    parts = []
    for base in (base for base in _bases(report) if galleries.pictured(report, base)):
        for steps in galleries.shown_steps(report, base):
            note = f"{_on(report, base)}{in_steps(steps)}; a column has the same noise and prompt in all rows."
            parts.append(figure(galleries.gallery(report, base, steps), note, vector=False))
            drawn, prompt = galleries.variety(report, base, steps)
            note = f"{_on(report, base)}{in_steps(steps)}; every column is another noise for the prompt “{prompt}”."
            parts.append(figure(drawn, note, vector=False))
    return _joined(parts)


def samples_by_windows(report: Report) -> Html:
    """Samples of the entries with several numbers of windows, one step a window."""
    parts = []
    for (base, entry), _ in report.tables["ablation"].groupby(["base", "entry"], sort=False):
        if not galleries.pictured(report, str(base)):
            continue
        note = f"{_on(report, str(base))}One step a window; a column has the same noise and prompt in all rows."
        parts.append(figure(galleries.by_windows(report, str(base), str(entry)), note, vector=False))
    return _joined(parts)


def costs(report: Report) -> Html:
    """What it took: a bar for each model, and the sums by stage."""
    names = ("seconds", "cpu_seconds", "peak_mib", "bytes", "teacher_evaluations", "student_passes")
    rows = []
    for stage, part in report.tables["costs"].groupby("table", sort=False):
        total = {name: part[name].sum(min_count=1) for name in names}
        rows.append([
            Cell(escape(str(stage)), 1, "method"), Cell(str(len(part))), Cell(seconds(total["seconds"])),
            Cell(seconds(total["cpu_seconds"])), Cell(number(part["peak_mib"].max())), Cell(size(total["bytes"])),
            Cell(_whole(total["teacher_evaluations"])), Cell(_whole(total["student_passes"])),
        ])  # fmt: skip
    header = ["stage", "rows", "wall time", "CPU time", "peak MiB", "written", "teacher evaluations", "student passes"]
    caption = (
        "Wall time by model, the mean over training seeds; pairs are counted for every model that learns from them,"
        " and the pairs and training of a student for every model that it teaches or starts."
    )
    return _joined((figure(figures.costs(report), caption), table(header, rows)))


def _whole(value: float) -> str:
    return "" if value is None or value != value else f"{int(value):,}"
