"""Windowed distillation: the network is asked at the window's start only and must name its end.

It is no rectification: nothing is learnt inside the window. With many one-step windows of a guided
teacher it is guidance distillation (arXiv 2210.03142, stage one), the control of this study.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perflow.methods.method import Method

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


@dataclass(frozen=True)
class Distill(Method):
    """``perceptual``: an entry of ``extractors`` that tells how far apart two images look; what the student's end and
    the window's look apart, ``weight`` times (1 unless said), is added to the loss, as InstaFlow's second step has it
    (arXiv 2309.06380). Only a window that ends at data ends at images, so such a student has one.
    """

    perceptual: str | None = None
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and self.perceptual is None:
            raise ValueError(f"weight is that of perceptual, which is not given; got {self.weight}")
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"weight is a number above 0; got {self.weight}")

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """Mean squared error, at the window's start, of what the student says against the target; and how far apart
        the two ends look, where that is asked."""
        said = student.says(pairs.start, pairs.k, pairs.k * 0.0, pairs.condition)
        error = (said - student.flow.target(pairs.start, pairs.end, pairs.k)).square().mean()
        if self.perceptual is None:
            return error
        end = student.flow.step(pairs.start, said, pairs.k, 0.0, 1.0)
        return error + (self.weight or 1.0) * student.apart(end, pairs.end).mean()
