"""Classifier-free guidance: w cond + (1 - w) uncond, both halves in one forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from perflow.core.broadcast import working_dtype
from perflow.core.condition import Condition, stack
from perflow.errors import PerflowError

Network = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x [B, ...], timestep [B], condition [B, ...]) -> output [B, ...]"""


def guided(
    network: Network, condition: Condition, null: Condition | None, guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Close over a condition: (x [B, ...], timestep [B]) -> the guided output [B, ...], fp32 if guided.

    ``condition`` is a tensor [B, ...], or named tensors where a network takes several. ``null`` is the
    condition of no prompt, [B, ...] or [1, ...]; it is not read at guidance 1, which is one call of the
    plain network. Otherwise the batch is doubled, null half first, as diffusers orders it.
    Guidance is linear with weights that sum to 1, so it may act on any prediction: epsilon, v, x0, velocity.
    """
    if guidance == 1:
        return lambda x, timestep: network(x, timestep, condition)
    if null is None:
        raise PerflowError(f"guidance {guidance:g} needs a null condition; only guidance 1 does without")
    both = stack(null, condition)

    def field(x: Tensor, timestep: Tensor) -> Tensor:
        output = network(torch.cat([x, x]), torch.cat([timestep, timestep]), both)
        without, with_prompt = output.to(working_dtype(output)).chunk(2)
        return without + guidance * (with_prompt - without)

    return field


def nfe(guidance: float) -> int:
    """Network evaluations that one call of a guided field costs: 1 at guidance 1, else 2."""
    return 1 if guidance == 1 else 2
