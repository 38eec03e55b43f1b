"""Piecewise rectified flow: regress the window's straight course at random positions inside it.

PeRFlow (arXiv 2405.07510) eq. 3 with ``velocity``, eq. 4-5 with the two window parameterisations of
epsilon; with one window it is reflow (arXiv 2209.03003), on the diffusion path it is phased rectified
diffusion (arXiv 2410.07303).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perflow.methods.method import Method

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


@dataclass(frozen=True)
class PiecewiseReflow(Method):
    """``positions``: where in the window the network is asked: ``uniform`` over [0, 1), or m >= 2 equally
    spaced points (the official ``discrete_timesteps`` / K). ``power`` moves them: a position u becomes u^power, so
    above 1 they crowd at the window's start (density ∝ u^(1/power - 1)), below 1 at its end.

    ``weighting`` says where an error is measured: ``uniform``, in what the network says (the paper); ``endpoint``,
    in the window's end, as if made at its start; ``velocity``, in dx/dt. ``penalty`` says what it then counts:
    ``mse`` (the paper), or ``huber`` (pseudo-Huber, arXiv 2310.14189).
    """

    positions: Literal["uniform"] | int = "uniform"
    weighting: Literal["uniform", "endpoint", "velocity"] = "uniform"
    power: float = 1.0
    penalty: Literal["mse", "huber"] = "mse"

    def __post_init__(self) -> None:
        if self.positions != "uniform" and self.positions < 2:
            raise ValueError(
                f"positions are 'uniform' or a whole number from 2; got {self.positions} (1 is the method distill)"
            )
        if not 0 < self.power < math.inf:
            raise ValueError(f"power is a number above 0, 1 leaves positions where they are; got {self.power}")

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """Mean penalty of what the student says at x_t against the window's target."""
        from perflow.core.penalties import PENALTIES, mean_square

        u = self._draw(len(pairs.k), rng)
        x = student.flow.interpolate(pairs.start, pairs.end, pairs.k, u)
        said = student.says(x, pairs.k, u, pairs.condition)
        error = mean_square(said, student.flow.target(pairs.start, pairs.end, pairs.k))
        if self.weighting == "endpoint":
            error = error * student.flow.endpoint_weight(pairs.k).to(error, non_blocking=True)
        elif self.weighting == "velocity":
            error = error * student.flow.velocity_weight(pairs.k, u).to(error, non_blocking=True)
        return PENALTIES[self.penalty](error).mean()

    def _draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        import torch

        from perflow.core.rng import per_item

        if self.positions == "uniform":
            u = per_item(count, rng, lambda n: torch.rand(n, generator=rng))
        else:
            u = per_item(count, rng, lambda n: torch.randint(self.positions, (n,), generator=rng) / self.positions)
        return u**self.power
