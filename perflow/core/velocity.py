"""Solvers of dx/dt = v(x, t): Runge-Kutta 4(5) with steps of its own size, and the reverse SDE of a diffusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from perflow.core.broadcast import per_item, working_dtype
from perflow.core.interpolation import Interpolation
from perflow.errors import PerflowError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [B, ...], t [B] fp64) -> dx/dt [B, ...]"""

TOLERANCE = 1e-5
"""Relative and absolute, as the published evaluations of rectified flow and of score SDEs have them."""

# Dormand and Prince (1980), the pair 5(4) with seven stages, the last of which is the first of the next step.
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_WEIGHTS = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_FIRST_STEP, _SAFETY, _SHRINK, _GROW = 0.1, 0.9, 0.2, 10.0
_MOST_STEPS = 1_000


class Solution(NamedTuple):
    """Where items end, [B, ...], and calls of the field for each, [B] int64."""

    end: Tensor
    evaluations: Tensor


def rk45_step(field: Velocity, x: Tensor, t: Tensor, h: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of length h [B] from x at t [B], ``first`` = v(x, t): (x after it, v there, estimate of its error)."""
    slopes, length = [first], per_item(h, x)
    after = x
    for node, weights in zip(_NODES[1:], _WEIGHTS[1:], strict=True):
        after = x + length * sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
        slopes.append(field(after, t + node * h))
    error = length * sum(weight * slope for weight, slope in zip(_ERROR, slopes, strict=True))
    return after, slopes[-1], error


def rk45(field: Velocity, x: Tensor, start: float, end: float, tolerance: float = TOLERANCE) -> Solution:
    """Integrate from ``start`` to ``end``, either way.

    Every item has its own steps, so its end and its evaluations do not depend on the rest of the batch. A step of a
    straight flow has no error, and grows tenfold. PerflowError if an item does not arrive in 1,000 steps, or gets lost.
    """
    x = x.to(working_dtype(x))
    t = torch.full((len(x),), start, dtype=torch.float64)
    h = torch.full_like(t, _FIRST_STEP * (end - start))
    slope, calls = field(x, t), torch.ones(len(x), dtype=torch.int64)
    for _ in range(_MOST_STEPS):
        left = end - t
        going = left != 0
        if not bool(going.any()):
            return Solution(x, calls)
        whole = h.abs() >= left.abs()
        taken = torch.where(whole, left, h)
        after, next_slope, error = rk45_step(field, x, t, taken, slope)
        calls += 6 * going
        scale = tolerance + tolerance * torch.maximum(x.abs(), after.abs())
        size = (error / scale).flatten(1).square().mean(1).sqrt().double().cpu()
        if not bool(size[going].isfinite().all()):
            raise PerflowError("rk45: the flow is not finite; the model diverged")
        good = going & (size <= 1)
        factor = (_SAFETY * size.clamp(min=1e-10) ** -0.2).clamp(_SHRINK, _GROW)
        h = torch.where(going, taken * torch.where(good, factor, factor.clamp(max=1)), h)
        t = torch.where(good, torch.where(whole, torch.full_like(t, end), t + taken), t)
        kept = good.to(x.device).reshape(-1, *[1] * (x.ndim - 1))
        x, slope = torch.where(kept, after, x), torch.where(kept, next_slope, slope)
    raise PerflowError(f"rk45: {int((t != end).sum())} items are not at t={end:g} after {_MOST_STEPS:,} steps")


def noise_of(velocity: Tensor, x: Tensor, t: float, path: Interpolation) -> Tensor:
    """The start that a velocity claims for x: solves alpha x0 + sigma x1 = x and alpha' x0 + sigma' x1 = v for x1."""
    alpha, sigma, (fall, rise) = path.alpha(t), path.sigma(t), path.rates(t)
    return (alpha * velocity - fall * x) / (alpha * rise - sigma * fall)


def diffusion(t: float, path: Interpolation) -> Tensor:
    """g² at t for a start of unit variance: 2 sigma sigma' - 2 (alpha'/alpha) sigma²."""
    sigma, (fall, rise) = path.sigma(t), path.rates(t)
    return 2 * sigma * rise - 2 * fall / path.alpha(t) * sigma**2


def reverse_sde(
    field: Velocity, x: Tensor, times: Sequence[float], path: Interpolation, scale: float,
    noise: Callable[[int], Tensor],
) -> list[Tensor]:  # fmt: skip
    """Euler-Maruyama on the reverse SDE (arXiv 2011.13456, eq. 6) along falling ``times``; all states, x first.

    Its drift is v + g²/2 · score back in time, with g² = s² ``diffusion`` for a Gaussian start of standard
    deviation ``scale`` = s, and score = -x1 / (sigma s²). ``noise(i)`` [B, ...] is step i's; the last
    step, which ends at the data, adds none.
    """
    states = [x.to(working_dtype(x))]
    for i, (here, there) in enumerate(zip(times, times[1:], strict=False)):
        x, h = states[-1], here - there
        velocity = field(x, torch.full((len(x),), here, dtype=torch.float64))
        spread = diffusion(here, path)
        x = x - h * velocity - (h * spread / (2 * path.sigma(here))).to(x) * noise_of(velocity, x, here, path)
        if i < len(times) - 2:
            x = x + scale * (spread * h).sqrt().to(x) * noise(i)
        states.append(x)
    return states
