"""The figures. Each takes the report's data and returns a matplotlib figure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from matplotlib.figure import Figure

from perflow.report.data import Report, records
from perflow.report.drawing import GREY, colour, key, label_ends, marker, plain_numbers, powers, style
from perflow.report.study import WINDOW, metric_name

_LOGARITHMIC = ("fd_", "kid_", "teacher_mse")
_AXES = {"nfe": "network evaluations per image", "steps": "solver steps"}
_STAGES = (("pairs", "pairs"), ("students", "training"), ("samples", "sampling"), ("evaluations", "metrics"))


def _entries(report: Report) -> dict[tuple[str, str], int]:
    """(entry, solver) -> a number that keeps colour and marker the same in every figure."""
    found: dict[tuple[str, str], int] = {}
    for arm in report.wide():
        if not _is_reference(arm):
            found.setdefault((arm["entry"], arm["solver"]), len(found))
    return found


def _is_reference(arm: dict[str, Any]) -> bool:
    return arm["kind"] == "base" and arm["trial"].startswith("teacher")


def common_windows(report: Report) -> int | None:
    """The number of windows that most entries have: the one shown where an entry has several."""
    pairs = {(a["entry"], a["windows"]) for a in report.wide() if a["solver"] == WINDOW}
    counts = Counter(int(windows) for _, windows in sorted(pairs))
    return counts.most_common(1)[0][0] if counts else None


def quality(report: Report, base: str, metric: str = "fd_teacher", against: str = "nfe") -> Figure:
    """A metric against network evaluations or steps, one line a method, bars are the intervals.

    Of an entry with several numbers of windows the line with :func:`common_windows` is drawn.
    """
    windows, numbers = common_windows(report), _entries(report)
    several = {e for e, n in Counter(e for e, _ in _entry_keys(report, base)).items() if n > 1}
    lines: dict[tuple[str, str], list[dict]] = {}
    for arm in report.wide():
        shown = arm["entry"] not in several or arm["windows"] == windows
        if arm["base"] == base and shown and metric in arm["metrics"] and not _is_reference(arm):
            lines.setdefault((arm["key"], arm["solver"]), []).append(arm)
    with style():
        figure = Figure(figsize=(9.6, 5.4))
        axes = figure.add_axes((0.08, 0.11, 0.56, 0.84))
        powers(axes, [arm[against] for arms in lines.values() for arm in arms])
        if metric.startswith(_LOGARITHMIC):
            plain_numbers(axes)
        ends = []
        for arms in lines.values():
            arms.sort(key=lambda arm: arm[against])
            index, points = numbers[arms[0]["entry"], arms[0]["solver"]], [arm["metrics"][metric] for arm in arms]
            x, y = [arm[against] for arm in arms], [point["value"] for point in points]
            bars = [[p["value"] - p["low"] for p in points], [p["high"] - p["value"] for p in points]]
            axes.errorbar(
                x, y, yerr=bars, color=colour(index), marker=marker(index),
                linestyle="--" if arms[0]["kind"] == "base" else "-",
            )  # fmt: skip
            ends.append((x[-1], y[-1], arms[0]["label"], colour(index)))
        floor = _floor(report, base, metric)
        if floor:
            axes.axhline(floor, color=GREY, linewidth=1, linestyle=":")
            ends.append((axes.get_xlim()[1], floor, "teacher, other noise", GREY))
        axes.set_xlabel(_AXES[against])
        axes.set_ylabel(metric_name(metric, report.extractor))
        label_ends(axes, figure, ends)
    return figure


def _entry_keys(report: Report, base: str) -> set[tuple[str, str]]:
    return {(arm["entry"], arm["key"]) for arm in report.wide() if arm["base"] == base}


def _floor(report: Report, base: str, metric: str) -> float | None:
    """The value of the teacher's second set of samples: what sampling noise alone amounts to."""
    for arm in report.wide():
        if arm["base"] == base and _is_reference(arm) and arm["stream"] and metric in arm["metrics"]:
            return arm["metrics"][metric]["value"]
    return None


def ablation(report: Report, base: str, metric: str = "fd_teacher") -> Figure:
    """A metric against the number of windows: one step a window, and every number of steps all windows share."""
    lines: dict[tuple[str, str], list[dict]] = {}
    names = []
    for row in records(report.tables["ablation"]):
        if row["metric"] != metric or row["base"] != base:
            continue
        names.append(row["entry"])
        lines.setdefault((row["entry"], f"{row['steps']} steps"), []).append(row)
        if row["one_step_a_window"]:
            lines.setdefault((row["entry"], "one step a window"), []).append(row)
    widths = {row["windows"] for rows in lines.values() for row in rows}
    shared = {
        name: rows for name, rows in lines.items() if name[1] == "one step a window" or len(rows) == len(widths)
    }
    entries = list(dict.fromkeys(names))
    with style():
        figure = Figure(figsize=(9.6, 4.6))
        axes = figure.add_axes((0.08, 0.13, 0.56, 0.82))
        powers(axes, sorted(widths) or [1])
        if metric.startswith(_LOGARITHMIC):
            plain_numbers(axes)
        ends = []
        for i, ((entry, kind), rows) in enumerate(shared.items()):
            rows.sort(key=lambda row: row["windows"])
            x, y = [row["windows"] for row in rows], [row["value"] for row in rows]
            bars = [[row["value"] - row["low"] for row in rows], [row["high"] - row["value"] for row in rows]]
            axes.errorbar(
                x, y, yerr=bars, color=colour(i), marker=marker(i),
                linestyle="-" if kind == "one step a window" else "--",
            )  # fmt: skip
            text = kind if len(entries) == 1 else f"{rows[0]['label'].split(', K=')[0]}, {kind}"
            ends.append((x[-1], y[-1], text, colour(i)))
        axes.set_xlabel("windows K")
        axes.set_ylabel(metric_name(metric, report.extractor))
        label_ends(axes, figure, ends)
    return figure


def curves(report: Report, table: str = "students") -> Figure:
    """Training losses, smoothed; a panel for each phase (losses of different phases have different units)."""
    frame = report.tables["curves"]
    frame = frame[frame["table"] == table]
    phases = list(dict.fromkeys(frame["phase"]))
    with style():
        figure = Figure(figsize=(9.6, 4.2 * max(1, len(phases))))
        for i, phase in enumerate(phases):
            height = 1 / len(phases)
            axes = figure.add_axes((0.08, 1 - (i + 1) * height + 0.13 * height, 0.56, 0.78 * height))
            plain_numbers(axes)
            part, ends = frame[frame["phase"] == phase], []
            keys = list(dict.fromkeys(part["key"]))
            for row, curve in part.groupby("row", sort=False):
                index = keys.index(curve["key"].iloc[0])
                smooth = curve["loss"].ewm(span=max(1, len(curve) // 15)).mean()
                axes.plot(curve["step"], smooth, color=colour(index), alpha=0.9, linestyle=_dash(index))
                if str(row).endswith("-s0") or table != "students":
                    ends.append((curve["step"].iloc[-1], smooth.iloc[-1], curve["label"].iloc[0], colour(index)))
            axes.set_xlabel("training step")
            axes.set_ylabel(f"loss, {phase}" if len(phases) > 1 else "loss")
            label_ends(axes, figure, ends)
    return figure


def _dash(index: int) -> str:
    """Lines beyond the palette's length differ by their dashes."""
    return ("-", "--", "-.", ":")[index // 8 % 4]


def flow(report: Report, base: str) -> Figure | None:
    """Straightness and end-point error per window on the student's own path; a column for each number of windows."""
    frame = report.tables["windows"]
    frame = frame[frame["base"] == base] if len(frame) else frame
    if not len(frame):
        return None
    entries, counts = list(dict.fromkeys(frame["entry"])), sorted(set(frame["windows"]))
    names = {arm["entry"]: arm["label"].split(", K=")[0] for arm in report.wide()}
    titles = ("curvature of the path", "end-point error of one step")
    with style():
        figure = Figure(figsize=(9.6, 6.4))
        panels = figure.subplots(2, len(counts), sharey="row", squeeze=False)
        for column, windows in enumerate(counts):
            for line, metrics in enumerate((("teacher_straightness", "straightness"), ("endpoint_error",))):
                axes = panels[line][column]
                plain_numbers(axes)
                axes.set_xlim(1, 0)
                axes.set_title(f"K = {windows}" if line == 0 else "")
                axes.set_ylabel(titles[line] if column == 0 else "")
                axes.set_xlabel("t" if line else "")
                axes.set_xticks([1, 0.5, 0], ["1", ".5", "0"])
                part = frame[frame["windows"] == windows]
                for entry, rows in part.groupby("entry", sort=False):
                    index = entries.index(entry)
                    means = rows.groupby("window")[["start", "end", *metrics]].mean()
                    edges = [*means["start"], means["end"].iloc[-1]]
                    for metric in metrics:
                        dashed = metric.startswith("teacher")
                        axes.stairs(
                            means[metric][::-1], edges[::-1], baseline=None, color=colour(index),
                            linestyle=":" if dashed else "-", linewidth=1.4 if dashed else 2,
                        )  # fmt: skip
        handles = [
            key(colour(i), "-", names[entry]) for i, entry in enumerate(entries)
        ] + [key(GREY, ":", "the teacher, from the same states")]
        figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0.04 + 0.035 * (len(handles) // 3), 1, 1))
    return figure


def costs(report: Report) -> Figure:
    """Seconds of each model by stage, the mean over its training seeds; pairs are counted for every model that uses them."""
    seconds = {(row["table"], row["row"]): row["seconds"] or 0.0 for row in records(report.tables["costs"])}
    bars: dict[str, dict[str, list[float]]] = {}
    for model in report.study["models"]:
        name = model["name"].removesuffix(f"-s{model['seed']}") if model["kind"] == "student" else model["name"]
        for table, _ in _STAGES:
            row = model["pairs"] if table == "pairs" else model["name"]
            bars.setdefault(name, {}).setdefault(table, []).append(seconds.get((table, row), 0.0))
    for table in ("bases", "extractors"):
        for (kind, row), value in seconds.items():
            if kind == table:
                bars.setdefault(row, {}).setdefault("students", []).append(value)
                bars[row]["students"] = [sum(bars[row]["students"])]
    with style():
        figure = Figure(figsize=(9.6, 1.0 + 0.3 * len(bars)))
        axes = figure.add_axes((0.3, 0.6 / figure.get_figheight(), 0.62, 1 - 1.0 / figure.get_figheight()))
        left = [0.0] * len(bars)
        for i, (table, name) in enumerate(_STAGES):
            width = [sum(bar.get(table, [0.0])) / max(1, len(bar.get(table, [0.0]))) for bar in bars.values()]
            axes.barh(list(bars), width, left=left, color=colour(i), label=name, height=0.7)
            left = [a + b for a, b in zip(left, width, strict=True)]
        for y, total in enumerate(left):
            axes.text(total, y, f" {total:.0f} s", va="center", fontsize=8.5, color="#374151")
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("seconds of wall time")
        axes.margins(x=0.08)
        axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return figure
