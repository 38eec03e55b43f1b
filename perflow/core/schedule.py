"""The noise schedule: where continuous time becomes a network's timestep, and alpha(t), sigma(t)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from perflow.errors import PerflowError


@dataclass(frozen=True, eq=False)
class Schedule:
    """A variance-preserving schedule x_t = alpha(t) x_0 + sigma(t) noise, alpha² + sigma² = 1.

    ``alphas_cumprod`` [T] is ᾱ at the integer indices 0 (data) … T-1 (noise); kept as fp64 on CPU. It
    falls strictly inside [0, 1); a last entry of exactly 0 is a zero terminal SNR. Time t=1 is index
    T-1; t=0 is ᾱ[0], not ᾱ=1: networks were never trained beyond it.
    """

    alphas_cumprod: Tensor

    def __post_init__(self) -> None:
        table = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64, device="cpu")
        if table.ndim != 1 or len(table) < 2 or not bool((table[1:] < table[:-1]).all()):
            raise PerflowError("schedule: alphas_cumprod must be a falling list of at least 2 numbers")
        if not 0 <= table[-1] < table[0] < 1:
            raise PerflowError(f"schedule: alphas_cumprod must lie in [0, 1), not {table[-1]}…{table[0]}")
        object.__setattr__(self, "alphas_cumprod", table)

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, count: int = 1000) -> Schedule:
        """Stable Diffusion's schedule: sqrt(beta) rises linearly over ``count`` indices."""
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, count, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0))

    def __len__(self) -> int:
        """T, the number of trained timesteps."""
        return len(self.alphas_cumprod)

    def index(self, t: float | Tensor) -> Tensor:
        """The timestep a network is given at t: clamp(T t - 1, 0, T - 1), such as 999, 749; fp64 on CPU."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        return (len(self) * t - 1).clamp(0, len(self) - 1)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """log(alpha/sigma) at t, linear between integer indices; -inf where the SNR is 0."""
        index = self.index(t)
        low = index.floor().long()
        high = (low + 1).clamp(max=len(self) - 1)
        step = index - low
        left, right = self._log_snr[low], self._log_snr[high]
        inside = left + step * (right - left)
        # Towards a zero terminal SNR the log has no finite end: there alpha itself falls linearly to 0.
        towards_zero = self._log_snr_of((1 - step) * self.alphas_cumprod[low].sqrt())
        return torch.where(right.isinf(), towards_zero, inside)

    def alpha(self, t: float | Tensor) -> Tensor:
        """Scale of the data in x_t, in [0, 1); fp64."""
        return torch.sigmoid(2 * self.log_snr(t)).sqrt()

    def sigma(self, t: float | Tensor) -> Tensor:
        """Scale of the noise in x_t, in (0, 1]; fp64."""
        return torch.sigmoid(-2 * self.log_snr(t)).sqrt()

    def turn(self, t: float | Tensor) -> Tensor:
        """dφ/dt >= 0 where alpha = cos φ and sigma = sin φ, on the side of smaller t; fp64.

        At an edge between integer indices it belongs to the interval that a falling t enters; below t = 1/T,
        where the schedule stands still, it is 0.
        """
        high = (self.index(t) - 1e-9).ceil().long().clamp(min=0)
        low = (high - 1).clamp(min=0)
        slope = len(self) * (self._log_snr[high] - self._log_snr[low])
        towards_zero = len(self) * self.alphas_cumprod[low].sqrt() / self.sigma(t)  # there alpha falls linearly
        return torch.where(self._log_snr[high].isinf(), towards_zero, -self.alpha(t) * self.sigma(t) * slope)

    @cached_property
    def _log_snr(self) -> Tensor:
        return self._log_snr_of(self.alphas_cumprod.sqrt())

    @staticmethod
    def _log_snr_of(alpha: Tensor) -> Tensor:
        return alpha.log() - 0.5 * torch.log1p(-(alpha**2))
