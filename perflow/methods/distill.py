"""Windowed distillation: the network is asked at the window's start only and must name its end.

It is no rectification: nothing is learnt inside the window. With many one-step windows of a guided
teacher it is guidance distillation (arXiv 2210.03142, stage one), the control of this study.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from perflow.methods.method import Method

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


@dataclass(frozen=True)
class Distill(Method):
    """No options."""

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """Mean squared error, at the window's start, of what the student says against the target."""
        said = student.says(pairs.start, pairs.k, pairs.k * 0.0, pairs.condition)
        return (said - student.flow.target(pairs.start, pairs.end, pairs.k)).square().mean()
