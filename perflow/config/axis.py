"""The axis of windows: ``4``, ``[1, 2, 4]``, ``[1, 0.5, 0]``, ``{count: 4, spacing: log_snr}`` or a list of these."""

from __future__ import annotations

import math
from typing import Any

from perflow.config import rows
from perflow.errors import PerflowError

TIMESTEPS = 1000
"""T, the trained timesteps of every base."""


def window_axis(place: str, given: Any) -> list[tuple[str, list[float]]]:
    """What a study gives as windows -> (label, edges) of each value; PerflowError naming ``place`` if it is none."""
    is_edges = isinstance(given, list) and len(given) > 2 and given[-1] == 0 and not isinstance(given[-1], bool)
    values = given if isinstance(given, list) and not is_edges else [given]
    if not values:
        raise PerflowError(f"{place}.windows: empty; give a number such as 4, or edges such as [1, 0.5, 0]")
    axis = [_window_value(f"{place}.windows", value) for value in values]
    if len({label for label, _ in axis}) < len(axis):
        raise PerflowError(f"{place}.windows: the same windows stand twice in {given}")
    return axis


def _window_value(place: str, value: Any) -> tuple[str, list[float]]:
    if isinstance(value, dict):
        value = _spaced(place, value)
    if isinstance(value, list):
        if not all(isinstance(edge, int | float) and not isinstance(edge, bool) for edge in value):
            raise PerflowError(f"{place}: edges must be numbers; got {value}")
        try:
            edges = [float(edge) for edge in rows.check_edges(value)]
        except ValueError as error:
            raise PerflowError(f"{place}: {error}") from None
        return "e" + "_".join(f"{edge:g}" for edge in edges[1:-1]), edges
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise PerflowError(
            f"{place}: windows are a whole number from 1 to 1000, or edges such as [1, 0.5, 0]; got {value!r}"
        )
    return f"k{value}", equal_edges(value)


def _spaced(place: str, value: dict[str, Any]) -> int | list[float]:
    """``{count: 4, spacing: log_snr}`` written out: edges, or a number for those that are equal in time."""
    count, spacing = value.get("count"), value.get("spacing")
    whole = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= 100
    if value.keys() != {"count", "spacing"} or not whole or spacing not in SPACINGS:
        names = ", ".join(SPACINGS)
        raise PerflowError(
            f"{place}: windows by a rule are {{count: 4, spacing: log_snr}}, up to 100 and one of {names}; got {value}"
        )
    return SPACINGS[spacing](count) if count > 1 else count


def log_snr_edges(windows: int) -> list[float]:
    """Edges evenly spaced in log(alpha/sigma) of Stable Diffusion's schedule (scaled linear betas from 0.00085 to
    0.012, 1000 timesteps), to whole timesteps; bases of another schedule name their edges."""
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    log_alpha, table = 0.0, []
    for i in range(TIMESTEPS):
        log_alpha += 0.5 * math.log1p(-((low + (high - low) * i / (TIMESTEPS - 1)) ** 2))
        table.append(log_alpha - 0.5 * math.log(-math.expm1(2 * log_alpha)))
    wanted = [table[-1] + k * (table[0] - table[-1]) / windows for k in range(1, windows)]
    inner = [(min(range(TIMESTEPS), key=lambda i: abs(table[i] - each)) + 1) / TIMESTEPS for each in wanted]
    return [1.0, *inner, 0.0]


def quadratic_edges(windows: int) -> list[float]:
    """Edges even in the square root of time, to whole timesteps: windows shrink towards the data."""
    return [round(((windows - k) / windows) ** 2, 3) for k in range(windows + 1)]


def even_edges(edges: list[float], curvatures: list[float], windows: int) -> list[float]:
    """Edges of ``windows`` windows in which a trajectory turns equally much, to whole timesteps.

    ``curvatures`` (at least 0, one for each piece between ``edges``) are squared deviations from the chord relative to
    its square, so their roots add up over the pieces; within a piece the turn is spread evenly over time.
    """
    turns = [math.sqrt(max(value, 0.0)) for value in curvatures]
    if not sum(turns):
        raise PerflowError(f"edges: a straight trajectory has no curvature to share; got {curvatures}")
    found, passed, piece = [1.0], 0.0, 0
    for k in range(1, windows):
        wanted = sum(turns) * k / windows
        while passed + turns[piece] < wanted:
            passed += turns[piece]
            piece += 1
        share = (wanted - passed) / turns[piece]
        found.append(round(edges[piece] + share * (edges[piece + 1] - edges[piece]), 3))
    found.append(0.0)
    if any(a <= b for a, b in zip(found, found[1:], strict=False)):
        raise PerflowError(f"edges: {windows} windows are too many to tell apart to a timestep: {found}")
    return found


SPACINGS = {"equal": lambda windows: windows, "log_snr": log_snr_edges, "quadratic": quadratic_edges}
"""Rules for window edges: what a number of windows becomes."""


def equal_edges(windows: int) -> list[float]:
    """The edges of ``windows`` windows of equal width."""
    return [(windows - k) / windows for k in range(windows + 1)]
