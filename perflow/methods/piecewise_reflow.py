"""Piecewise rectified flow: regress the window's straight course at random positions inside it.

PeRFlow (arXiv 2405.07510) eq. 3 with ``velocity``, eq. 4-5 with the two window parameterisations of
epsilon; with one window it is reflow (arXiv 2209.03003), on the diffusion path it is phased rectified
diffusion (arXiv 2410.07303).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


@dataclass(frozen=True)
class PiecewiseReflow:
    """``positions``: where in the window the network is asked: ``uniform`` over [0, 1), or m >= 2 equally
    spaced points (the official ``discrete_timesteps`` / K). ``weighting``: ``uniform`` (the paper), or
    ``endpoint``, which weighs each window by what an error at its start does to its end point.
    """

    positions: Literal["uniform"] | int = "uniform"
    weighting: Literal["uniform", "endpoint"] = "uniform"

    def __post_init__(self) -> None:
        if self.positions != "uniform" and self.positions < 2:
            raise ValueError(
                f"positions are 'uniform' or a whole number from 2; got {self.positions} (1 is the method distill)"
            )

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """Mean squared error of what the student says at x_t against the window's target."""
        u = self._draw(len(pairs.k), rng).to(pairs.start.device)
        x = student.flow.interpolate(pairs.start, pairs.end, pairs.k, u)
        said = student.says(x, pairs.k, u, pairs.condition)
        error = (said - student.flow.target(pairs.start, pairs.end, pairs.k)).square().flatten(1).mean(1)
        if self.weighting == "endpoint":
            error = error * student.flow.endpoint_weight(pairs.k).to(error)
        return error.mean()

    def _draw(self, count: int, rng: torch.Generator) -> torch.Tensor:
        import torch

        if self.positions == "uniform":
            return torch.rand(count, generator=rng)
        return torch.randint(self.positions, (count,), generator=rng) / self.positions
