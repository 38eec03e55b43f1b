"""Paths x_t = alpha(t) x_0 + sigma(t) x_1 between data x_0 and a start x_1 of any distribution.

Rectified flow (arXiv 2209.03003) takes the straight one; with a Gaussian start the others are what diffusion models
call their schedules (Song et al., arXiv 2011.13456, section 3.4), and their flows are the probability-flow ODEs. Unlike
``schedule.Schedule`` nothing here was trained on a table: coefficients and their rates are exact at every t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FIRST = 1e-3
"""Rates are taken at max(t, FIRST): at t = 0 those of the variance-preserving paths are infinite."""
_A, _B = 19.9, 0.1
"""alpha(t) = exp(-A t² / 4 - B t / 2), the VP schedule of 2011.13456 (beta from B to A + B)."""
_LEAST = 1e-3
"""sigma(0) of the VE path, in units of the start's own scale."""


class Path(NamedTuple):
    """Coefficients at t, fp64: (alpha, sigma) and (dalpha/dt, dsigma/dt)."""

    scales: Callable[[Tensor], tuple[Tensor, Tensor]]
    rates: Callable[[Tensor], tuple[Tensor, Tensor]]


def _vp(t: Tensor) -> tuple[Tensor, Tensor]:
    log = -_A * t**2 / 4 - _B * t / 2
    return log.exp(), (-torch.expm1(2 * log)).sqrt()


def _vp_rates(t: Tensor) -> tuple[Tensor, Tensor]:
    alpha, sigma = _vp(t)
    fall = -alpha * (_A * t / 2 + _B / 2)
    return fall, -alpha * fall / sigma


INTERPOLATIONS: dict[str, Path] = {
    "straight": Path(lambda t: (1 - t, t), lambda t: (-torch.ones_like(t), torch.ones_like(t))),
    "vp": Path(_vp, _vp_rates),
    "subvp": Path(
        lambda t: (_vp(t)[0], _vp(t)[1] ** 2),
        lambda t: (_vp_rates(t)[0], -2 * _vp(t)[0] * _vp_rates(t)[0]),
    ),
    # alpha falls at a constant speed, alpha² + sigma² = 1 (2209.03003, the comparison of interpolations)
    "vp_constant": Path(
        lambda t: (1 - t, (t * (2 - t)).sqrt()),
        lambda t: (-torch.ones_like(t), (1 - t) / (t * (2 - t)).sqrt()),
    ),
    "ve": Path(
        lambda t: (torch.ones_like(t), _LEAST ** (1 - t)),
        lambda t: (torch.zeros_like(t), -math.log(_LEAST) * _LEAST ** (1 - t)),
    ),
}


@dataclass(frozen=True)
class Interpolation:
    """A path by name, with what ``PiecewiseFlow`` asks of a schedule; t: float or [B] in [0, 1], fp64 on CPU."""

    name: str

    def alpha(self, t: float | Tensor) -> Tensor:
        """Share of the data, falling from 1 (for ``ve`` it stays 1)."""
        return INTERPOLATIONS[self.name].scales(_time(t))[0]

    def sigma(self, t: float | Tensor) -> Tensor:
        """Share of the start, rising to 1."""
        return INTERPOLATIONS[self.name].scales(_time(t))[1]

    def rates(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """(dalpha/dt, dsigma/dt), at ``FIRST`` for a smaller t."""
        return INTERPOLATIONS[self.name].rates(_time(t).clamp(min=FIRST))

    def index(self, t: float | Tensor) -> Tensor:
        """What the network is given: t itself."""
        return _time(t)

    def turn(self, t: float | Tensor) -> Tensor:
        """dφ/dt for alpha = r cos φ, sigma = r sin φ."""
        alpha, sigma, (fall, rise) = self.alpha(t), self.sigma(t), self.rates(t)
        return (alpha * rise - sigma * fall) / (alpha**2 + sigma**2)


def _time(t: float | Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")
