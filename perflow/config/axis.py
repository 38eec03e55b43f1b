"""The axis of windows: ``4``, ``[1, 2, 4]``, ``[1, 0.5, 0]`` or a list of these."""

from __future__ import annotations

from typing import Any

from perflow.config import rows
from perflow.errors import PerflowError


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


def equal_edges(windows: int) -> list[float]:
    """The edges of ``windows`` windows of equal width."""
    return [(windows - k) / windows for k in range(windows + 1)]
