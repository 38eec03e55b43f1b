"""How figures look: one palette, fonts, axes and direct labels. No global state of matplotlib is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

# Okabe and Ito's colours, which people with any kind of colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#000000")
GREY, DARK = "#6b7280", "#374151"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE = {
    "svg.hashsalt": "perflow",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#1f2937",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "errorbar.capsize": 2.5,
}
_NEAR = 1 / 18
"""Of the width of an axis: what two marks need between them."""


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure; saving a figure needs it too, for the salt of its identifiers."""
    with matplotlib.rc_context(_STYLE):
        yield


def colour(index: int) -> str:
    """A colour for the entry at ``index`` of the study."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """A marker for the entry at ``index``, so that colour is never the only sign."""
    return MARKERS[index % len(MARKERS)]


def powers(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis, marked at the values that occur, but for those so near the mark before that they touch."""
    axes.set_xscale("log", base=2)
    marks: list[float] = []
    for value in sorted(set(values)):
        if not marks or value >= marks[-1] * (max(values) / min(values)) ** _NEAR:
            marks.append(value)
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def key(ink: str, dashes: str, text: str) -> Line2D:
    """A line for a legend."""
    return Line2D([], [], color=ink, linestyle=dashes, label=text)


def plain_numbers(axes: Axes) -> None:
    """Decimal numbers, not powers of ten, on a logarithmic y axis; enough of them to read by."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def label_ends(axes: Axes, figure: Figure, ends: Sequence[tuple[float, float, str, str]], size: float = 9) -> None:
    """Write each label (x, y, text, colour) at the right of the axes, moved apart where they would overlap."""
    if not ends:
        return
    axes.get_xlim(), axes.get_ylim()  # settles limits that are still to be computed from the data
    to_pixels, back = axes.transData.transform, axes.transAxes.inverted().transform
    height = figure.dpi * size / 72 * 1.35 / axes.get_window_extent().height
    placed = sorted((back(to_pixels((x, y)))[1], back(to_pixels((x, y)))[0], text, ink) for x, y, text, ink in ends)
    for (wanted, x, text, ink), y in zip(placed, _apart([item[0] for item in placed], height), strict=True):
        axes.annotate(
            text, xy=(x, wanted), xytext=(1.03, y), xycoords="axes fraction", textcoords="axes fraction",
            fontsize=size, color=ink, va="center", ha="left", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": ink, "lw": 0.6, "alpha": 0.5, "shrinkB": 3, "relpos": (0, 0.5)},
        )  # fmt: skip


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Rising positions at least ``gap`` apart that lie as near to ``wanted`` (rising) as they can.

    Pools neighbours that would overlap and centres each pool on the mean of what its members want.
    """
    pools: list[list[float]] = []
    for i, place in enumerate(wanted):
        pools.append([place - i * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    offsets = [level for level, members in pools for _ in range(int(members))]
    return [level + i * gap for i, level in enumerate(offsets)]
