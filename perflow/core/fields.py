"""A network as the right side of an ODE.

All functions take ``network(x [B, ...], timestep [B] fp32) -> output [B, ...]``, with its condition and
guidance already inside (see ``guidance.guided``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from perflow.core.chunks import chunked
from perflow.core.condition import Condition, take
from perflow.core.grid import WindowStep
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.prediction import from_epsilon, to_epsilon
from perflow.core.schedule import Schedule
from perflow.core.velocity import Velocity

Denoiser = Callable[[Tensor, Tensor], Tensor]


def base_field(network: Denoiser, schedule: Schedule, prediction: str) -> Callable[[Tensor, float], Tensor]:
    """A base as ``field(x, t) -> epsilon``, what ``solvers`` integrate; t: float or [B] in [0, 1]."""

    def field(x: Tensor, t: float | Tensor) -> Tensor:
        output = network(x, _timesteps(schedule.index(t), x))
        return to_epsilon(prediction, output, x, schedule.alpha(t), schedule.sigma(t))

    return field


def clipped(network: Denoiser, schedule: Schedule, prediction: str, limit: float) -> Denoiser:
    """``network`` with the x0 that it claims kept in [-limit, limit], and its output made to say so.

    What DDPM's own sampler does to pixels (diffusers' ``clip_sample``); a DDIM step of it is one with
    ``use_clipped_model_output``.
    """

    def says(x: Tensor, timestep: Tensor) -> Tensor:
        t = (timestep.double().cpu() + 1) / len(schedule)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        claimed = to_epsilon(prediction, network(x, timestep), x, alpha, sigma)
        x0 = from_epsilon("x0", claimed, x, alpha, sigma).clamp(-limit, limit)
        return from_epsilon(prediction, to_epsilon("x0", x0, x, alpha, sigma), x, alpha, sigma)

    return says


def student_field(network: Denoiser, flow: PiecewiseFlow) -> Callable[[Tensor, int, float], Tensor]:
    """A student as ``y(x, k, u)``, what ``PiecewiseFlow.step`` takes; k, u: numbers or [B]."""

    def field(x: Tensor, k: int | Tensor, u: float | Tensor) -> Tensor:
        return flow.output(network(x, _timesteps(flow.timestep(k, u), x)), x, k, u)

    return field


def course(network: Denoiser, flow: PiecewiseFlow, x: Tensor, steps: Iterable[WindowStep]) -> Iterator[Tensor]:
    """The states of x [B, ...] after each of ``steps`` of a student's flow, one call of the network each."""
    says = student_field(network, flow)
    for k, u_from, u_to in steps:
        x = flow.step(x, says(x, k, u_from), k, u_from, u_to)
        yield x


def follow(network: Denoiser, flow: PiecewiseFlow, x: Tensor, steps: Iterable[WindowStep]) -> Tensor:
    """Take x [B, ...] along ``steps`` of a student's flow."""
    for state in course(network, flow, x, steps):
        x = state
    return x


def velocity_field(network: Denoiser, flow: PiecewiseFlow, k: int) -> Velocity:
    """Window k of a student that says velocity, as ``velocity`` solves it: (x [B, ...], t [B]) -> dx/dt."""
    says, start, end = student_field(network, flow), flow.time(k, 0.0), flow.time(k, 1.0)
    return lambda x, t: says(x, k, ((start - t) / (start - end)).clamp(0, 1))


def way(
    says: Callable[[Condition, Condition | None, float], Denoiser], flow: PiecewiseFlow, x: Tensor,
    conditions: Mapping[str, Tensor], null: Condition | None, guidance: Sequence[float],
    pieces: Iterable[Sequence[WindowStep]], chunk: int,
) -> list[Tensor]:  # fmt: skip
    """Where a student comes by: x [N, ...], then the end of each of ``pieces`` of its flow, in chunks of ``chunk``.

    ``says`` is its network under a condition, what guidance leads away from, and a guidance; ``guidance`` is one
    number a window of the flow, ``conditions`` [N, ...], ``null`` [1, ...].
    """
    states, items = [x], torch.arange(len(x))
    for steps in pieces:

        def walk(x: Tensor, index: Tensor, steps: Sequence[WindowStep] = steps) -> Tensor:
            condition = take(conditions, index)
            for step in steps:
                x = follow(says(condition, null, guidance[step.k]), flow, x, [step])
            return x

        states.append(chunked(walk, chunk, states[-1], items))
    return states


def _timesteps(index: Tensor, x: Tensor) -> Tensor:
    """One timestep an item, [B] fp32 on x's device."""
    return index.to(torch.float32).to(x.device, non_blocking=True).expand(len(x))
