"""A network together with the flow its output belongs to: what methods train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from perflow.core.condition import Condition
from perflow.core.fields import student_field
from perflow.core.guidance import Network, guided
from perflow.core.piecewise import PiecewiseFlow


@dataclass(frozen=True)
class Learner:
    """``network(x [B, ...], timestep [B], condition [B, ...]) -> raw output``, and its flow."""

    network: Network
    flow: PiecewiseFlow
    apart: Callable[[Tensor, Tensor], Tensor] | None = None
    """How far apart two batches of latents look, [B], for a method that asks (``Method.perceptual``)."""

    def says(self, x: Tensor, k: Tensor, u: Tensor, condition: Condition) -> Tensor:
        """The output y [B, ...] at x, window k [B], position u [B], in the flow's own terms (fp32)."""
        return student_field(guided(self.network, condition, None, 1), self.flow)(x, k, u)
