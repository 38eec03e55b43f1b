"""A network as the right side of an ODE.

Both functions take ``network(x [B, ...], timestep [B] fp32) -> output [B, ...]``, with its condition and
guidance already inside (see ``guidance.guided``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.core.grid import WindowStep
from perflow.core.guidance import Network, guided
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.prediction import to_epsilon
from perflow.core.schedule import Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]


def base_field(network: Denoiser, schedule: Schedule, prediction: str) -> Callable[[Tensor, float], Tensor]:
    """A base as ``field(x, t) -> epsilon``, what ``solvers`` integrate; t: float or [B] in [0, 1]."""

    def field(x: Tensor, t: float | Tensor) -> Tensor:
        output = network(x, _timesteps(schedule.index(t), x))
        return to_epsilon(prediction, output, x, schedule.alpha(t), schedule.sigma(t))

    return field


def student_field(network: Denoiser, flow: PiecewiseFlow) -> Callable[[Tensor, int, float], Tensor]:
    """A student as ``y(x, k, u)``, what ``PiecewiseFlow.step`` takes; k, u: numbers or [B]."""

    def field(x: Tensor, k: int | Tensor, u: float | Tensor) -> Tensor:
        return flow.output(network(x, _timesteps(flow.timestep(k, u), x)), x, k, u)

    return field


def follow(network: Denoiser, flow: PiecewiseFlow, x: Tensor, steps: Iterable[WindowStep]) -> Tensor:
    """Take x [B, ...] along ``steps`` of a student's flow, one call of the network each."""
    says = student_field(network, flow)
    for k, u_from, u_to in steps:
        x = flow.step(x, says(x, k, u_from), k, u_from, u_to)
    return x


def way(
    network: Network, flow: PiecewiseFlow, x: Tensor, conditions: Tensor, null: Tensor, guidance: Sequence[float],
    pieces: Iterable[Sequence[WindowStep]], chunk: int,
) -> list[Tensor]:  # fmt: skip
    """Where a student comes by: x [N, ...], then the end of each of ``pieces`` of its flow, in chunks of ``chunk``.

    ``guidance`` is one number a window of the flow, ``conditions`` [N, ...], ``null`` [1, ...].
    """
    states = [x]
    for steps in pieces:

        def walk(x: Tensor, condition: Tensor, steps: Sequence[WindowStep] = steps) -> Tensor:
            for step in steps:
                x = follow(guided(network, condition, null, guidance[step.k]), flow, x, [step])
            return x

        states.append(chunked(walk, chunk, states[-1], conditions))
    return states


def _timesteps(index: Tensor, x: Tensor) -> Tensor:
    """One timestep an item, [B] fp32 on x's device."""
    return index.to(device=x.device, dtype=torch.float32).expand(len(x))
