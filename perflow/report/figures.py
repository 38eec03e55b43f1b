"""The figures. Each takes the report's data and returns a matplotlib figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from perflow.core import WINDOW
from perflow.report.data import Report, records
from perflow.report.drawing import DARK, GREY, colour, key, label_ends, marker, plain_numbers, powers, style
from perflow.report.study import metric_name

_LOGARITHMIC = ("fd_", "kid_", "teacher_mse")
_AXES = {"nfe": "network evaluations per image", "steps": "solver steps"}  # in the order of the panels
_STAGES = (("pairs", "pairs"), ("students", "training"), ("samples", "sampling"), ("evaluations", "metrics"))


class _Looks:
    """Colour says the entry (dark grey: training-free), marker and dashes say the solver, in every figure alike."""

    def __init__(self, report: Report):
        arms = [arm for arm in report.wide() if not arm["reference"]]
        self.entries = list(dict.fromkeys(arm["entry"] for arm in arms if arm["kind"] == "student"))
        self.solvers = list(dict.fromkeys(arm["solver"] for arm in arms))
        self.names = {arm["entry"]: arm["label"].split(", K=")[0].split(" + ")[0] for arm in arms}

    def ink(self, entry: str) -> str:
        """An entry's colour."""
        return colour(self.entries.index(entry)) if entry in self.entries else DARK

    def line(self, arm: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a line."""
        dashes = "-" if arm["solver"] == WINDOW else ("--", ":", "-.")[self.solvers.index(arm["solver"]) % 3]
        mark = marker(self.solvers.index(arm["solver"]))
        return {"color": self.ink(arm["entry"]), "marker": mark, "linestyle": dashes}


def common_windows(report: Report) -> int | None:
    """The number of windows that most entries have: the one shown where an entry has several."""
    pairs = {(arm["entry"], arm["windows"]) for arm in report.wide() if arm["windowed"] and arm["solver"] == WINDOW}
    counts = Counter(int(windows) for _, windows in sorted(pairs))
    return counts.most_common(1)[0][0] if counts else None


def quality(report: Report, base: str, metric: str) -> Figure:
    """A metric against network evaluations and against steps; one line a method, bars are the intervals.

    A solver that decides as it goes has no number of steps: it stands, by its name, among the evaluations only.
    Of an entry with several numbers of windows the line with :func:`common_windows` is drawn.
    """
    looks, lines = _Looks(report), _lines(report, base, metric)
    floor, logarithmic = _floor(report, base, metric), _logarithmic(metric, lines, lambda arm: arm["metrics"][metric])
    with style():
        figure = Figure(figsize=(11.6, 5.2))
        panels = [figure.add_axes((left, 0.11, 0.345, 0.83)) for left in (0.06, 0.435)]
        ends = []
        for axes, against in zip(panels, _AXES, strict=True):
            powers(axes, [arm[against] for arms in lines for arm in arms if arm[against]] or [1])
            if logarithmic:
                plain_numbers(axes)
            ends = []
            for arms in (arms for arms in lines if all(arm[against] for arm in arms)):
                arms.sort(key=lambda arm: arm[against])
                x, points = [arm[against] for arm in arms], [arm["metrics"][metric] for arm in arms]
                axes.errorbar(x, [point["value"] for point in points], yerr=_bars(points), **looks.line(arms[0]))
                ends.append((x[-1], points[-1]["value"], arms[0]["label"], looks.ink(arms[0]["entry"])))
                if not arms[0]["steps"]:
                    axes.annotate(
                        arms[0]["label"], (x[0], points[0]["high"]), (0, 5), textcoords="offset points", ha="center",
                        va="bottom", rotation=90, fontsize=8, color=looks.ink(arms[0]["entry"]),
                    )  # fmt: skip
            if floor is not None and (floor > 0 or not logarithmic):
                axes.axhline(floor, color=GREY, linewidth=1, linestyle=(0, (1, 2)))
                ends.append((axes.get_xlim()[1], floor, "the teacher's other samples", GREY))
            axes.set_xlabel(_AXES[against])
        panels[0].set_ylabel(metric_name(metric, report.extractor))
        panels[1].sharey(panels[0])
        panels[1].tick_params(labelleft=False)
        label_ends(panels[1], figure, ends)
    return figure


def _lines(report: Report, base: str, metric: str) -> list[list[dict[str, Any]]]:
    windows, keys = common_windows(report), {(a["entry"], a["key"]) for a in report.wide() if a["base"] == base}
    several = {entry for entry, times in Counter(entry for entry, _ in keys).items() if times > 1}
    lines: dict[tuple[str, str], list[dict]] = {}
    for arm in report.wide():
        shown = arm["entry"] not in several or arm["windows"] == windows
        measured = arm["metrics"].get(metric, {}).get("value") is not None
        if arm["base"] == base and shown and measured and not arm["reference"]:
            lines.setdefault((arm["key"], arm["label"]), []).append(arm)
    return list(lines.values())


def _bars(points: list[dict[str, Any]]) -> list[list[float]]:
    """Lengths of error bars, below and above."""
    return [[max(0.0, p["value"] - p["low"]) for p in points], [max(0.0, p["high"] - p["value"]) for p in points]]


def _logarithmic(metric: str, lines: list[list[dict[str, Any]]], point: Callable[[dict], dict]) -> bool:
    """Whether a metric's axis is; an unbiased estimate (KID) may fall below zero, which such an axis cannot show."""
    return metric.startswith(_LOGARITHMIC) and all(point(row)["value"] > 0 for rows in lines for row in rows)


def _floor(report: Report, base: str, metric: str) -> float | None:
    """The value of the teacher's second set of samples: what sampling noise alone amounts to."""
    for arm in report.wide():
        if arm["base"] == base and arm["reference"] and arm["stream"] and metric in arm["metrics"]:
            return arm["metrics"][metric]["value"]
    return None


def ablation(report: Report, base: str, metric: str) -> Figure:
    """A metric against the number of windows: one step a window, and numbers of steps that several of them share."""
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
        name: rows for name, rows in lines.items() if name[1] == "one step a window" or len(rows) >= min(3, len(widths))
    }
    entries = list(dict.fromkeys(names))
    with style():
        figure = Figure(figsize=(9.6, 4.6))
        axes = figure.add_axes((0.08, 0.13, 0.56, 0.82))
        powers(axes, sorted(widths) or [1])
        if _logarithmic(metric, list(shared.values()), lambda row: row):
            plain_numbers(axes)
        ends = []
        for i, ((_, kind), rows) in enumerate(shared.items()):
            rows.sort(key=lambda row: row["windows"])
            x, y = [row["windows"] for row in rows], [row["value"] for row in rows]
            axes.errorbar(
                x, y, yerr=_bars(rows), color=colour(i), marker=marker(i),
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
    frame, looks = report.tables["curves"], _Looks(report)
    frame = frame[frame["table"] == table]
    entries = {model["name"]: model for model in report.study["models"]}
    phases = list(dict.fromkeys(frame["phase"]))
    with style():
        figure = Figure(figsize=(9.6, 4.2 * max(1, len(phases))))
        for i, phase in enumerate(phases):
            height = 1 / len(phases)
            axes = figure.add_axes((0.08, 1 - (i + 1) * height + 0.13 * height, 0.54, 0.78 * height))
            plain_numbers(axes)
            part, ends = frame[frame["phase"] == phase], []
            for number, (row, curve) in enumerate(part.groupby("row", sort=False)):
                model = entries.get(str(row)) if table == "students" else None
                ink = looks.ink(model["entry"]) if model else colour(number)
                smooth = curve["loss"].ewm(span=max(1, len(curve) // 15)).mean()
                axes.plot(curve["step"], smooth, color=ink, linewidth=1.4, alpha=0.9)
                if model is None or model["seed"] == 0:
                    text = f"{model['label']}, K={model['windows']}" if model else str(row)
                    ends.append((curve["step"].iloc[-1], smooth.iloc[-1], text, ink))
            axes.set_xlabel("training step")
            axes.set_ylabel(f"loss, {phase}" if len(phases) > 1 else "loss")
            label_ends(axes, figure, ends)
    return figure


def flow(report: Report, base: str) -> Figure | None:
    """Straightness and end-point error per window on the student's own path; a column for each number of windows."""
    frame, looks = report.tables["windows"], _Looks(report)
    frame = frame[frame["base"] == base] if len(frame) else frame
    if not len(frame):
        return None
    counts = sorted(set(frame["windows"]))
    rows = (("curvature of the path", ("teacher_straightness", "straightness")),
            ("end-point error of one step", ("endpoint_error",)))  # fmt: skip
    with style():
        figure = Figure(figsize=(11.6, 6.2))
        panels = figure.subplots(2, len(counts), sharey="row", squeeze=False)
        for column, windows in enumerate(counts):
            for axes, (title, metrics) in zip(panels[:, column], rows, strict=True):
                plain_numbers(axes)
                axes.set_xlim(1, 0)
                axes.set_xticks([1, 0.5, 0], ["1", ".5", "0"])
                axes.set_ylabel(title if column == 0 else "")
                for entry, part in frame[frame["windows"] == windows].groupby("entry", sort=False):
                    _stairs(axes, part, metrics, looks.ink(str(entry)))
            panels[0, column].set_title(f"K = {windows}")
            panels[1, column].set_xlabel("t")
        shown = [key(looks.ink(entry), "-", looks.names[entry]) for entry in dict.fromkeys(frame["entry"])]
        shown.append(key(GREY, ":", "the teacher, from the same states"))
        figure.legend(handles=shown, loc="lower center", ncols=4, frameon=False, fontsize=9)
        figure.tight_layout(rect=(0, 0.02 + 0.035 * -(-len(shown) // 4), 1, 1))
    return figure


def gain(
    report: Report, cells: dict[tuple[str, float, int], dict[str, Any]], metric: str, measured: dict[str, Any]
) -> dict[str, Figure]:
    """A figure for each base: a panel for each guidance, a line for each side of the question, over evaluations."""
    drawn = {}
    for base in dict.fromkeys(base for base, _, _ in cells):
        scales = sorted({guidance for own, guidance, _ in cells if own == base})
        names = list(dict.fromkeys(name for key, sides in cells.items() if key[0] == base for name in sides))
        with style():
            image = Figure(figsize=(3.2 * len(scales) + 0.6, 3.8))
            panels = image.subplots(1, len(scales), sharey=True, squeeze=False)[0]
            for axes, guidance in zip(panels, scales, strict=True):
                for i, name in enumerate(names):
                    points = [(budget, sides[name]) for (own, scale, budget), sides in cells.items()
                              if own == base and scale == guidance and name in sides]  # fmt: skip
                    values = [mean(measured[m]["trials"][arm.trial]["metrics"][metric]["value"] for m in arm.models)
                              for _, arm in points]  # fmt: skip
                    ink = DARK if i == 0 else colour(i - 1)
                    axes.plot([x for x, _ in points], values, color=ink, marker=marker(i), label=name)
                powers(axes, [budget for _, _, budget in cells])
                if metric.startswith(_LOGARITHMIC) and all(y > 0 for line in axes.lines for y in line.get_ydata()):
                    axes.set_yscale("log")
                axes.set_title(f"guidance {guidance:g}", fontsize=10)
                axes.set_xlabel("network evaluations")
            panels[0].set_ylabel(metric_name(metric, report.extractor))
            image.legend(
                *panels[-1].get_legend_handles_labels(), ncols=3, frameon=False, loc="lower center", fontsize=9
            )
            image.tight_layout(rect=(0, 0.12, 1, 1))
        drawn[base] = image
    return drawn


def _stairs(axes: Axes, rows: DataFrame, metrics: tuple[str, ...], ink: str) -> None:
    """A level for each window, the mean over training seeds."""
    means = rows.groupby("window")[["start", "end", *metrics]].mean()
    edges = [*means["start"], means["end"].iloc[-1]]
    for metric in metrics:
        teacher = metric.startswith("teacher")
        looks = {"linestyle": ":", "linewidth": 1.4} if teacher else {"linestyle": "-", "linewidth": 2}
        axes.stairs(means[metric][::-1], edges[::-1], baseline=None, color=ink, **looks)


def travel(lines: list[dict[str, Any]], metric: str, steps: int, extractor: str) -> Figure:
    """A metric at ``steps`` steps against the scale of a fine-tune: a line for each delta, for the best solver of the
    base without one (grey), and for students of the fine-tunes themselves (black). ``lines``: of one setting."""
    points: dict[str, dict[float, dict[str, Any]]] = {}
    for line in lines:
        if line["metric"] == metric and line["steps"] == steps and line["role"] != "teacher":
            name = {"base": "without a delta", "own": f"{line['method']}, its own"}.get(line["role"], line["method"])
            best = points.setdefault(name, {}).setdefault(line["scale"], line)
            if line["value"] < best["value"]:
                points[name][line["scale"]] = line
    with style():
        figure = Figure(figsize=(9.6, 4.6))
        axes = figure.add_axes((0.08, 0.13, 0.58, 0.82))
        ends = []
        for i, (name, by_scale) in enumerate(points.items()):
            drawn = [by_scale[scale] for scale in sorted(by_scale)]
            ink = {"base": GREY, "own": DARK}.get(drawn[0]["role"], colour(i))
            axes.errorbar([line["scale"] for line in drawn], [line["value"] for line in drawn], yerr=_bars(drawn),
                          color=ink, marker=marker(i))  # fmt: skip
            ends.append((drawn[-1]["scale"], drawn[-1]["value"], name, ink))
        if _logarithmic(metric, [list(by_scale.values()) for by_scale in points.values()], lambda line: line):
            plain_numbers(axes)
        axes.set_xlabel("s in base + s (fine-tune − base)")
        axes.set_ylabel(metric_name(metric, extractor))
        label_ends(axes, figure, ends)
    return figure


def costs(report: Report) -> Figure:
    """Seconds of each model by stage, the mean over its training seeds.

    Pairs count for every model that uses them, and a chain's earlier links for every later one.
    """
    seconds = {(row["table"], row["row"]): row["seconds"] or 0.0 for row in records(report.tables["costs"])}
    bars: dict[str, dict[str, list[float]]] = {}
    models = {model["name"]: model for model in report.study["models"]}
    for model in models.values():
        name = model["name"].removesuffix(f"-s{model['seed']}") if model["kind"] == "student" else model["name"]
        chain = [model["name"], *model["links"]]
        rows = {"pairs": dict.fromkeys(models[link]["pairs"] for link in chain), "students": chain}
        for table, _ in _STAGES:
            total = sum(seconds.get((table, row), 0.0) for row in rows.get(table, [model["name"]]))
            bars.setdefault(name, {}).setdefault(table, []).append(total)
    for table in ("bases", "adapters", "extractors"):
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
