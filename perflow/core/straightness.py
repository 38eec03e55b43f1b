"""How straight a piece of trajectory is, and how far its end is from the exact one; per item.

Straightness follows rectified flow (arXiv 2209.03003): S = ∫ E‖(z_1 - z_0) - ż_τ‖² dτ, here over one window
and divided by the squared chord, so that 0 is straight and windows can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from perflow.core.piecewise import PiecewiseFlow


def coordinates(
    states: Sequence[Tensor], flow: PiecewiseFlow, k: int, positions: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """States x [m+1 of B, ...] at positions u of window k -> (z [m+1, B, ...], τ [m+1] from 0 to 1).

    In these coordinates the flow's path is a straight line at constant speed: (x, u) on the straight path,
    (x/alpha, sigma/alpha scaled to [0, 1]) on the diffusion path.
    """
    x = torch.stack(list(states))
    u = torch.tensor(positions, dtype=torch.float64)
    if flow.path == "straight":
        return x, u
    t = flow.time(k, u)
    alpha, sigma = flow.schedule.alpha(t), flow.schedule.sigma(t)
    ratio = sigma / alpha
    tau = (ratio - ratio[0]) / (ratio[-1] - ratio[0])
    return x / alpha.to(x).reshape(-1, *[1] * (x.ndim - 1)), tau


def curvature(z: Tensor, tau: Tensor) -> Tensor:
    """Relative straightness [B] of a polyline z [m+1, B, ...] at τ [m+1]: Σ Δτ ‖Δz/Δτ - chord‖² / ‖chord‖²."""
    length = (tau[1:] - tau[:-1]).to(z).reshape(-1, *[1] * (z.ndim - 1))
    chord = z[-1] - z[0]
    excess = (((z[1:] - z[:-1]) / length - chord).square() * length).flatten(2).sum((0, 2))
    return excess / chord.flatten(1).square().sum(1)


def endpoint_error(reached: Tensor, exact: Tensor, start: Tensor) -> Tensor:
    """Squared distance of the end reached from the exact one, relative to the exact way [B]."""
    way = (exact - start).flatten(1).square().sum(1)
    return (reached - exact).flatten(1).square().sum(1) / way
