"""Latent consistency distillation: both ends of a window must be told to end at the same point.

arXiv 2310.04378, algorithm 1. A pair of a one-step window is what it calls (z_{n+k}, ẑ_n): a point of the
teacher's ODE and the solver's next one, K windows for a skip of T/K. Guidance is the
pairs': one (CFG-fixed), or a range from which each has its own, which the network is then told (its own w is that
less 1). It says epsilon as its base did: the delta runs on ``LCMScheduler``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from perflow.methods.method import Method

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


@dataclass(frozen=True)
class Consistency(Method):
    """``penalty``: what a difference counts, ``huber`` (pseudo-Huber, here of a whole item) or ``mse``."""

    penalty: Literal["mse", "huber"] = "huber"

    passes: ClassVar[int] = 2
    needs: ClassVar[dict[str, str]] = {"path": "diffusion", "prediction": "ddim_eps"}

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """Mean penalty of f(start) by the student against f(end) by its EMA copy; at t = 0 that is the end itself."""
        from perflow.core.consistency import jump
        from perflow.core.penalties import PENALTIES, mean_square

        start = pairs.k * 0.0
        wanted = jump(target, pairs.end, pairs.k, start + 1, pairs.condition).detach()
        said = jump(student, pairs.start, pairs.k, start, pairs.condition)
        return PENALTIES[self.penalty](mean_square(said, wanted)).mean()
