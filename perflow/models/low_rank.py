"""A network whose matrices learn only by a product of two thin ones: what a low-rank student (LoRA) trains.

(Hu et al., arXiv 2106.09685.) Every linear and convolutional weight W becomes W + up @ down, with W, biases and norms
fixed; convolutions [out, in, h, w] count as matrices [out, in h w], as ``perflow.lora`` cuts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_KINDS = (nn.Linear, nn.Conv2d)


class LowRank(nn.Module):
    """weight + up @ down, of rank ``rank`` or, for a smaller matrix, of its full one; starts as the weight itself."""

    def __init__(self, weight: Tensor, rank: int, rng: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        down = torch.randn(rank, columns, generator=rng) / columns**0.5
        self.down = nn.Parameter(down.to(weight.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with what was learnt, in its own shape."""
        return weight + (self.up @ self.down).view_as(weight)


def insert(network: nn.Module, rank: int, rng: torch.Generator) -> None:
    """Fix every weight of ``network`` and give each matrix a product of ``rank``, drawn from ``rng``, to learn by."""
    network.requires_grad_(False)
    for module in [module for module in network.modules() if isinstance(module, _KINDS)]:
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, rng))


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The weights of ``network`` under its own names, products added; of a network without them, its state."""
    state = {name: value for name, value in network.state_dict().items() if ".parametrizations." not in name}
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            state[f"{name}.weight"] = module.weight.detach()
    return state
