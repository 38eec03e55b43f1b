"""Classifier-free guidance: w cond + (1 - w) uncond, both halves in one forward pass; or told to a network.

A network with a guidance embedding is told w beside the time (arXiv 2210.03142 and 2310.04378): one call at any w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from perflow.core.broadcast import per_item, working_dtype
from perflow.core.condition import Condition, stack
from perflow.errors import PerflowError

Network = Callable[[Tensor, Tensor, Condition], Tensor]
"""(x [B, ...], timestep [B], condition [B, ...]) -> output [B, ...]"""
TOLD = "guidance"
"""What a condition calls the embedded guidance [B, D], for a network that is told it."""


def guided(
    network: Network, condition: Condition, null: Condition | None, guidance: float | Tensor
) -> Callable[[Tensor, Tensor], Tensor]:
    """Close over a condition: (x [B, ...], timestep [B]) -> the guided output [B, ...], fp32 if guided.

    ``condition`` is a tensor [B, ...], or named tensors where a network takes several. ``null`` is the
    condition of no prompt, [B, ...] or [1, ...]; it is not read at guidance 1, which is one call of the
    plain network. Otherwise the batch is doubled, null half first, as diffusers orders it.
    ``guidance`` [B] is one number an item, for which the batch is doubled whatever they are.
    Guidance is linear with weights that sum to 1, so it may act on any prediction: epsilon, v, x0, velocity.
    """
    own = isinstance(guidance, Tensor)
    if not own and guidance == 1:
        return lambda x, timestep: network(x, timestep, condition)
    if null is None:
        said = "one guidance an item" if own else f"guidance {guidance:g}"
        raise PerflowError(f"{said} needs a null condition; only guidance 1 does without")
    both = stack(null, condition)

    def field(x: Tensor, timestep: Tensor) -> Tensor:
        output = network(torch.cat([x, x]), torch.cat([timestep, timestep]), both)
        without, with_prompt = output.to(working_dtype(output)).chunk(2)
        return without + (per_item(guidance, without) if own else guidance) * (with_prompt - without)

    return field


def nfe(guidance: float | list[float]) -> int:
    """Network evaluations that one call of a guided field costs: 1 at guidance 1, else 2, as of a range of them."""
    return 1 if guidance == 1 else 2


def told(condition: Mapping[str, Tensor], guidance: float | Tensor, size: int) -> dict[str, Tensor]:
    """``condition`` [B, ...] with the guidance (one for all items, or [B]) embedded in ``size`` numbers."""
    some = next(iter(condition.values()))
    each = torch.as_tensor(guidance, dtype=torch.float64).expand(len(some))
    return {**condition, TOLD: embedding(each, size).to(some.device, non_blocking=True)}


def embedding(guidance: Tensor, size: int) -> Tensor:
    """Guidance [B] -> [B, size] fp32, size even: sines, then cosines, of 1000 (w - 1) f for size/2 frequencies f
    that fall geometrically from 1 to 1/10000.

    Computed on the CPU. It is the embedding of time (Vaswani et al., 2017, section 3.5) for w (arXiv 2310.04378, which
    calls w - 1 w), as diffusers' pipelines make it of their ``guidance_scale``.
    """
    half = size // 2
    frequencies = torch.exp(torch.arange(half) * (-torch.tensor(10000.0).log() / (half - 1)))
    angles = 1000 * (guidance.double().cpu() - 1).float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
