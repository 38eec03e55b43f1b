"""What a base learns from latents and captions: the denoising loss on a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from perflow.core.condition import take
from perflow.core.denoising import denoising_error, noised
from perflow.latents import Latents

Says = Callable[[Tensor, Tensor, dict[str, Tensor], Tensor], Tensor]
"""(noised latents [B, ...], timesteps [B], conditions [B, ...], items [B]) -> raw output [B, ...]"""


def lesson(
    base: Any, data: Latents, says: Says, batch: int, drop: float, time_power: float, rng: torch.Generator
) -> Tensor:
    """The denoising loss of ``says`` on ``batch`` items of ``data``, a share ``drop`` of them under the empty caption,
    the first; a scalar."""
    found = noised(data.latents, base.schedule, batch, drop, time_power, rng)
    caption = torch.where(found.empty, 0, data.caption[found.item])
    output = says(found.x, found.timestep, base.condition(take(data.conditions, caption)), found.item)
    return denoising_error(output, found, base.prediction)
