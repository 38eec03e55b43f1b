"""Distributions on the plane whose points belong to their index, and the velocity between two mixtures, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from perflow.core.interpolation import Interpolation
from perflow.core.rng import generator


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight, round ones of standard deviation ``deviation`` at ``means`` [M, 2]."""

    means: tuple[tuple[float, float], ...]
    deviation: float

    def points(self, u: Tensor, z: Tensor) -> Tensor:
        """Uniform u [n, 2] and normal z [n, 2] -> points [n, 2]; u's first column says which Gaussian."""
        which = (u[:, 0] * len(self.means)).long().clamp(max=len(self.means) - 1)
        return torch.tensor(self.means)[which] + self.deviation * z


def _circle(count: int, radius: float, turn: float) -> tuple[tuple[float, float], ...]:
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


@dataclass(frozen=True)
class Moons:
    """Two half circles that reach into each other, of radius 2.5, with normal noise of deviation 0.2."""

    def points(self, u: Tensor, z: Tensor) -> Tensor:
        """As of a mixture; u's first column says which moon, the second where on it."""
        upper, angle = u[:, 0] < 0.5, math.pi * u[:, 1]
        sign = torch.where(upper, 1.0, -1.0)
        arc = torch.stack([sign * angle.cos() - 0.5 * sign, sign * angle.sin() - 0.25 * sign], dim=1)
        return 2.5 * arc + 0.2 * z


DISTRIBUTIONS: dict[str, Mixture | Moons] = {
    "gaussian": Mixture(((0.0, 0.0),), 1.0),
    "triangle": Mixture(_circle(3, 4.0, -math.pi / 2), 0.4),
    "triangle_flipped": Mixture(_circle(3, 4.0, math.pi / 2), 0.4),
    "ring": Mixture(_circle(8, 4.0, math.pi / 8), 0.3),
    "moons": Moons(),
}


def draw(name: str, seed: int, label: str, indices: Iterable[int]) -> Tensor:
    """Points [n, 2] fp32 of a distribution; each is a function of (seed, label, its index) alone."""
    draws = [generator(seed, label, int(index)) for index in indices]
    u = torch.stack([torch.rand(2, generator=rng) for rng in draws]) if draws else torch.empty(0, 2)
    z = torch.stack([torch.randn(2, generator=rng) for rng in draws]) if draws else torch.empty(0, 2)
    return DISTRIBUTIONS[name].points(u, z)


def exact_velocity(data: Mixture, start: Mixture, path: Interpolation) -> Callable[[Tensor, Tensor], Tensor]:
    """E[dx_t/dt | x_t = x] for independent mixtures (arXiv 2209.03003, eq. 1): (x [B, 2], t [B]) -> [B, 2].

    Given which Gaussians the two ends come from, (x_t, dx_t/dt) is Gaussian, so the velocity is linear in x; those
    pieces are weighted by how likely each pair of Gaussians is at x.
    """
    centres, far = torch.tensor(data.means).double(), torch.tensor(start.means).double()

    def field(x: Tensor, t: Tensor) -> Tensor:
        column = (slice(None), None, None)
        alpha, sigma = path.alpha(t)[column], path.sigma(t)[column]
        fall, rise = (rate[column] for rate in path.rates(t))
        mean = (alpha[..., None] * centres[:, None] + sigma[..., None] * far).flatten(1, 2)  # [B, M N, 2]
        drift = (fall[..., None] * centres[:, None] + rise[..., None] * far).flatten(1, 2)
        variance = ((alpha * data.deviation) ** 2 + (sigma * start.deviation) ** 2).flatten(1)
        shared = (alpha * fall * data.deviation**2 + sigma * rise * start.deviation**2).flatten(1)
        away = x.double()[:, None] - mean
        share = torch.softmax(-away.square().sum(2) / (2 * variance), dim=1)
        return (share[..., None] * (drift + (shared / variance)[..., None] * away)).sum(1).to(x)

    return field
