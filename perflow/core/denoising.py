"""How a base learns: noise what it should draw, and ask for the noise (DDPM, arXiv 2006.11239, eq. 14)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from perflow.core.prediction import from_epsilon
from perflow.core.schedule import Schedule

_NOISY_WEIGHT = 10.0
"""Cap of the weight 1/alpha²: what a caption decides, it decides where the noise is high and epsilon is easy."""


class Noised(NamedTuple):
    """A batch of B latents at random times, and the noise in it."""

    item: Tensor
    """Which latents [B] were noised."""
    empty: Tensor
    """Whether an item [B] is shown with the empty caption."""
    x: Tensor
    """The noised latents [B, ...]."""
    timestep: Tensor
    """What the network is given [B], fp32."""
    noise: Tensor
    alpha: Tensor
    sigma: Tensor


def noised(
    latents: Tensor, schedule: Schedule, batch: int, drop: float, time_power: float, rng: torch.Generator
) -> Noised:
    """``batch`` items of ``latents`` [N, ...] at t = u^time_power, a share ``drop`` of them without their caption."""
    device = latents.device
    item = torch.randint(len(latents), (batch,), generator=rng)
    empty = torch.rand(batch, generator=rng) < drop
    u = torch.rand(batch, generator=rng, dtype=torch.float64)
    index = schedule.index((1 - u) ** time_power).round()
    noise = torch.randn(batch, *latents.shape[1:], generator=rng).to(device)
    t = (index + 1) / len(schedule)
    alpha, sigma = (f(t).float().reshape(-1, *[1] * (latents.ndim - 1)).to(device) for f in
                    (schedule.alpha, schedule.sigma))  # fmt: skip
    x = alpha * latents[item.to(device)] + sigma * noise
    return Noised(item, empty, x, index.float().to(device), noise, alpha, sigma)


def denoising_error(output: Tensor, batch: Noised, prediction: str) -> Tensor:
    """Mean squared error of what a network that predicts ``prediction`` says of ``batch``; a scalar."""
    error = (output - from_epsilon(prediction, batch.noise, batch.x, batch.alpha, batch.sigma)).square()
    if prediction == "epsilon":  # v has this weight by itself
        error = error * (1 / batch.alpha**2).clamp(max=_NOISY_WEIGHT)
    return error.mean()
