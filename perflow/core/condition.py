"""What a network is told beside x and the time.

A family makes conditions from captions and hands them to its own network; all others pass them on without looking
inside. They are named tensors [N, ...], one row an item, and none for a network that is told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Condition = Tensor | Mapping[str, Tensor]
"""Named tensors [N, ...]; a bare tensor [N, ...] where there is but one."""


def take(condition: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The rows ``index`` [B] of a condition, [B, ...]."""
    return {name: value[index.to(value.device)] for name, value in condition.items()}


def stack(first: Condition, then: Condition) -> Condition:
    """``first`` ([B, ...], or [1, ...] for all) before ``then`` [B, ...], name by name: [2 B, ...]."""
    if isinstance(then, Mapping):
        return {name: stack(first[name], value) for name, value in then.items()}
    return torch.cat([first.expand(len(then), *then.shape[1:]), then])
