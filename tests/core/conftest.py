"""A teacher whose flow is known exactly: a Gaussian mixture in one dimension."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from perflow.core.schedule import Schedule

torch.set_num_threads(1)


@dataclass(frozen=True)
class Mixture:
    """Data x0 ~ Σ w N(μ, s²): noised, it is a mixture still, so epsilon and the flow are known exactly."""

    schedule: Schedule
    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    means = torch.tensor([-1.2, 0.4, 1.5], dtype=torch.float64)
    scales = torch.tensor([0.25, 0.3, 0.2], dtype=torch.float64)

    def _at(self, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha * self.means, (alpha**2 * self.scales**2 + sigma**2).sqrt()

    def epsilon(self, x: Tensor, t: float) -> Tensor:
        """-sigma times the score of the noised mixture; x [B]."""
        means, scales = self._at(t)
        z = (x[:, None] - means) / scales
        share = torch.softmax(self.weights.log() - scales.log() - z**2 / 2, dim=1)
        return self.schedule.sigma(t) * (share * z / scales).sum(1)

    def cdf(self, x: Tensor, t: float) -> Tensor:
        means, scales = self._at(t)
        return (self.weights * torch.special.ndtr((x[:, None] - means) / scales)).sum(1)

    def flow(self, x: Tensor, start: float, end: float) -> Tensor:
        """The exact end: in one dimension a probability flow keeps quantiles."""
        wanted = self.cdf(x, start)
        low, high = torch.full_like(x, -20), torch.full_like(x, 20)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(middle, end) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


@pytest.fixture(scope="session")
def schedule() -> Schedule:
    return Schedule.scaled_linear()


@pytest.fixture(scope="session")
def mixture(schedule: Schedule) -> Mixture:
    return Mixture(schedule)
