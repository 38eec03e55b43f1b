"""Where in time the steps of a solver lie: the times at which it asks the network, falling from 1 or less.

A spacing is a name of ``SPACINGS`` or the times themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from perflow.core import SPACINGS
from perflow.core.grid import WindowStep, lay
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError

_RHO = 7.0


def times(name: str, count: int, schedule: Schedule) -> list[float]:
    """``count`` falling times in (0, 1] of a named spacing on a schedule's own timesteps; PerflowError for no name.

    trailing, leading and linspace are the three of arXiv 2305.08891, table 2. The others place ``count`` + 1 nodes
    from the first timestep to the last, of which the last, the data's end, is no step: evenly in log-SNR, in
    (sigma/alpha)^(1/7) (Karras et al., arXiv 2206.00364, eq. 5), or in the square root of time.
    """
    if name not in SPACINGS:
        raise PerflowError(f"spacing: no '{name}'; there are {', '.join(SPACINGS)}")
    total = len(schedule)
    ramp = torch.linspace(0, 1, count + 1, dtype=torch.float64)[:-1]
    first, last = _ends(schedule)
    match name:
        case "trailing":
            index = (total * (1 - ramp)).round() - 1
        case "leading":
            index = torch.arange(count - 1, -1, -1, dtype=torch.float64) * (total // count) + 1
        case "linspace":
            index = torch.linspace(total - 1, 0, count, dtype=torch.float64)
        case "log_snr":
            index = _index(schedule, first + ramp * (last - first))
        case "karras":
            high, low = math.exp(-first / _RHO), math.exp(-last / _RHO)
            index = _index(schedule, -_RHO * (high + ramp * (low - high)).log())
        case _:
            index = total * (1 - ramp) ** 2 - 1
    return [float(t) for t in (index.clamp(0, total - 1) + 1) / total]


def _table(schedule: Schedule) -> Tensor:
    """log(alpha/sigma) at the timesteps T - 1 … 0, rising; of a zero terminal SNR the neighbour's."""
    found = schedule.log_snr(torch.arange(len(schedule), 0, -1, dtype=torch.float64) / len(schedule))
    return torch.where(found.isinf(), found[1], found)


def _ends(schedule: Schedule) -> tuple[float, float]:
    table = _table(schedule)
    return float(table[0]), float(table[-1])


def _index(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """The timestep at which log(alpha/sigma) has a value, between whole ones by linear interpolation."""
    table = _table(schedule)
    right = torch.searchsorted(table, log_snr.contiguous()).clamp(1, len(table) - 1)
    low, high = table[right - 1], table[right]
    part = ((log_snr - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return len(table) - 1 - (right - 1 + part)


def warped(steps: Sequence[float], power: float, edges: Sequence[float] = (1.0, 0.0)) -> list[float]:
    """Times t to t^power, above 1 towards the data; between ``edges``, each in the window it lies in."""
    bent = []
    for t in steps:
        k = _window(edges, t)
        end, width = edges[k + 1], edges[k] - edges[k + 1]
        bent.append(end + width * ((t - end) / width) ** power)
    return bent


def window_times(windows: Windows, count: int) -> list[float]:
    """Where ``count`` steps of a student begin, dealt evenly to its windows as ``grid.lay`` does."""
    return [float(windows.time(step.k, step.u_from)) for step in lay(len(windows), count)]


def window_steps(windows: Windows, steps: Sequence[float]) -> list[WindowStep]:
    """The steps of a student that begin at ``steps``; PerflowError unless each window's start is among them."""
    edges = windows.edges
    absent = [edge for edge in edges[:-1] if not any(math.isclose(edge, t, abs_tol=1e-9) for t in steps)]
    if absent:
        raise PerflowError(f"spacing: a window starts at {absent[0]:g}, where no step begins: {list(steps)}")
    found = []
    for here, there in zip(steps, [*steps[1:], 0.0], strict=True):
        k = _window(edges, here)
        width = edges[k] - edges[k + 1]
        u_from, u_to = ((edges[k] - t) / width for t in (here, there))
        found.append(WindowStep(k, max(0.0, u_from), min(1.0, u_to)))
    return found


def _window(edges: Sequence[float], t: float) -> int:
    """The window whose piece [start, end) holds t; an edge starts one, but for float dust."""
    return max(i for i, edge in enumerate(edges[:-1]) if edge > t - 1e-9)
