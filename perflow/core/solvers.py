"""Solvers of the probability-flow ODE of a base, on any falling grid of times.

All have one shape, ``solver(field, x, times, schedule) -> x`` with ``field(x, t) -> epsilon``: x [B, ...] is
taken from times[0] to times[-1]. The state is fp32 (fp64 if x is). In the variable ρ = sigma/alpha the ODE is
d(x/alpha)/dρ = epsilon (DDIM, arXiv 2010.02502, eq. 14), and only its nodes are known to a solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from perflow.core.broadcast import working_dtype
from perflow.core.schedule import Schedule
from perflow.errors import PerflowError

Field = Callable[[Tensor, float], Tensor]


class Node(NamedTuple):
    """A grid point: time, scales of data and noise, log(alpha/sigma)."""

    t: float
    alpha: float
    sigma: float
    log_snr: float


@dataclass(frozen=True)
class Solver:
    """An integrator over nodes, and how often a step calls the field."""

    integrate: Callable[[Field, Tensor, list[Node]], Tensor]
    calls: int

    def __call__(self, field: Field, x: Tensor, times: Sequence[float], schedule: Schedule) -> Tensor:
        """Integrate ``field`` along ``times``, which fall within [0, 1]; PerflowError if they do not."""
        return self.integrate(field, x.to(working_dtype(x)), _nodes(times, schedule))


def _ddim(field: Field, x: Tensor, nodes: list[Node]) -> Tensor:
    for here, there in zip(nodes, nodes[1:], strict=False):
        x = _along(x, field(x, here.t), here, there)
    return x


def _heun(field: Field, x: Tensor, nodes: list[Node]) -> Tensor:
    """Heun's method in ρ (Karras et al., arXiv 2206.00364, algorithm 1), second order."""
    for here, there in zip(nodes, nodes[1:], strict=False):
        first = field(x, here.t)
        second = field(_along(x, first, here, there), there.t)
        x = _along(x, (first + second) / 2, here, there)
    return x


def _dpmpp_2m(field: Field, x: Tensor, nodes: list[Node]) -> Tensor:
    """DPM-Solver++(2M), arXiv 2211.01095, algorithm 2: second order, data prediction, one call a step.

    With fewer than 15 steps the last one is of first order, as diffusers' ``lower_order_final``: towards
    t=0 the log-SNR jumps, and extrapolating over the jump with so few steps does harm.
    """
    before: tuple[Tensor, float] | None = None
    last = len(nodes) - 2
    for i, (here, there) in enumerate(zip(nodes, nodes[1:], strict=False)):
        data = (x - here.sigma * field(x, here.t)) / here.alpha
        h = there.log_snr - here.log_snr
        ahead = data
        # below t = 1/T the schedule is flat: a step of no length has no slope to extrapolate
        if before is not None and before[1] > 0 and not (i == last and len(nodes) - 1 < 15):
            ahead = data + 0.5 * h / before[1] * (data - before[0])
        x = (there.sigma / here.sigma) * x + there.alpha * -math.expm1(-h) * ahead
        before = data, h
    return x


SOLVERS: dict[str, Solver] = {
    "ddim": Solver(_ddim, calls=1),
    "dpmpp_2m": Solver(_dpmpp_2m, calls=1),
    "heun": Solver(_heun, calls=2),
}


def evaluations(name: str, steps: int) -> int:
    """Field calls in ``steps`` steps of a solver; each costs ``guidance.nfe`` network evaluations."""
    if name not in SOLVERS:
        raise PerflowError(f"solver: no '{name}'; there are {', '.join(SOLVERS)}")
    return SOLVERS[name].calls * steps


def _along(x: Tensor, eps: Tensor, here: Node, there: Node) -> Tensor:
    """Move along a constant epsilon (DDIM, arXiv 2010.02502, eq. 12 with no noise)."""
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - ratio * here.sigma) * eps


def _nodes(times: Sequence[float], schedule: Schedule) -> list[Node]:
    t = torch.as_tensor(times, dtype=torch.float64, device="cpu")
    if t.ndim != 1 or len(t) < 2 or not bool((t[1:] < t[:-1]).all()) or not 0 <= t[-1] < t[0] <= 1:
        raise PerflowError(f"solver: times must fall within [0, 1], not {t.tolist()}")
    if schedule.alpha(t[0]) == 0:
        raise PerflowError(f"solver: at t={t[0]:g} the SNR is 0, epsilon says nothing of the data; start later")
    columns = (t, schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t))
    return [Node(*row) for row in torch.stack(columns, dim=1).tolist()]
