"""Windows: the pieces of [0, 1] on which a student's flow is straight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from perflow.core.grid import WindowStep, lay
from perflow.errors import PerflowError


@dataclass(frozen=True)
class Windows:
    """K pieces of time between ``edges``, which fall strictly from 1 (noise) to 0 (data).

    Window k = 0 is the noisiest, the first in sampling. A point is stored as (k, u), with u in [0, 1)
    running from the window's start (noisy) to its end, so nobody looks a window up from a time.
    """

    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        edges = tuple(float(edge) for edge in self.edges)
        falls = all(later < earlier for earlier, later in zip(edges, edges[1:], strict=False))
        if len(edges) < 2 or edges[0] != 1 or edges[-1] != 0 or not falls:
            raise PerflowError(f"windows: edges must fall from 1 to 0, as [1, 0.5, 0] does, not {list(edges)}")
        object.__setattr__(self, "edges", edges)

    @classmethod
    def equal(cls, count: int) -> Windows:
        """``count`` windows of equal width."""
        if count < 1:
            raise PerflowError(f"windows: a count must be at least 1, not {count}")
        return cls(tuple((count - i) / count for i in range(count + 1)))

    def __len__(self) -> int:
        """K, the number of windows."""
        return len(self.edges) - 1

    def start(self, k: int | Tensor) -> Tensor:
        """Time of the noisy edge of window ``k``; fp64 on CPU, shaped like ``k``."""
        return self._edges[:-1][torch.as_tensor(k, device="cpu")]

    def end(self, k: int | Tensor) -> Tensor:
        """Time of the clean edge of window ``k``; fp64 on CPU, shaped like ``k``."""
        return self._edges[1:][torch.as_tensor(k, device="cpu")]

    def time(self, k: int | Tensor, u: float | Tensor) -> Tensor:
        """t = start + u (end - start), exact at u = 0 and u = 1; fp64 on CPU, shaped like ``k`` and ``u``."""
        u = torch.as_tensor(u, dtype=torch.float64, device="cpu")
        return (1 - u) * self.start(k) + u * self.end(k)

    def place(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """(k, u) of times in [0, 1], for latents that come from outside; fp64 on CPU, shaped like ``t``.

        A time at an edge may fall on either side of it, where a path's scales are the same.
        """
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu").clamp(0, 1)
        k = torch.bucketize(-t, -self._edges, right=True).sub(1).clamp(0, len(self) - 1)
        return k, (self.start(k) - t) / (self.start(k) - self.end(k))

    def steps(self, count: int) -> list[WindowStep]:
        """``count`` sampling steps, as ``grid.lay`` lays them; PerflowError if there are fewer than windows."""
        return lay(len(self), count)

    @cached_property
    def _edges(self) -> Tensor:
        return torch.tensor(self.edges, dtype=torch.float64)
