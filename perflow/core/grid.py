"""Steps on windows as numbers: how many fall where. Known without torch, so that a study can be checked by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from perflow.errors import PerflowError


class WindowStep(NamedTuple):
    """One sampling step: in window ``k``, from position ``u_from`` to ``u_to`` (0 = start, 1 = end)."""

    k: int
    u_from: float
    u_to: float


def lay(windows: int, count: int) -> list[WindowStep]:
    """``count`` steps over ``windows`` windows: N // K a window, the N mod K extra in the noisiest (PeRFlow §3).

    PerflowError if there are fewer steps than windows: a straight piece cannot be crossed together
    with the next one.
    """
    if count < windows:
        raise PerflowError(f"steps: {count} are too few, {windows} windows need at least {windows}")
    each, extra = divmod(count, windows)
    return [
        WindowStep(k, j / n, (j + 1) / n)
        for k, n in enumerate(each + (k < extra) for k in range(windows))
        for j in range(n)
    ]


def each_window(given: Any, windows: int) -> list[Any]:
    """What is given for every window, from one value for all or a list of one each: guidance, steps, solvers."""
    return list(given) if isinstance(given, list | tuple) else [given] * windows


def dashed(given: Any) -> str:
    """One value as text, or one a window with dashes between: 8, or 12-8-6-6."""
    return "-".join(map(str, each_window(given, 1)))


def spread(given: float | Sequence[float]) -> str:
    """A guidance as text, or the range that pairs have theirs from: 4.5, or 2 to 8."""
    return " to ".join(f"{value:g}" for value in each_window(given, 1))


def stretches(own: Sequence[float], count: int, edges: Sequence[float]) -> list[list[WindowStep]]:
    """The ``count`` steps of a flow whose windows have the edges ``own``, dealt out to the windows ``edges``.

    One list a window of ``edges``, in order, all equally long. PerflowError if steps do not end at an edge, or
    fall unevenly.
    """
    dealt: list[list[WindowStep]] = [[]]
    inner = list(edges[1:-1])
    for step in lay(len(own) - 1, count):
        dealt[-1].append(step)
        reached = (1 - step.u_to) * own[step.k] + step.u_to * own[step.k + 1]
        if inner and abs(reached - inner[0]) < 1e-9:
            del inner[0]
            dealt.append([])
    if inner:
        raise PerflowError(
            f"steps: {count} of the teacher, on its {len(own) - 1} windows, do not meet the edge {inner[0]:g}"
        )
    if len({len(steps) for steps in dealt}) > 1:
        raise PerflowError(f"steps: {count} of the teacher fall unevenly on {len(dealt)} windows: {[*map(len, dealt)]}")
    return dealt
