"""What every method has."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import torch

    from perflow.core.learner import Learner
    from perflow.pairs import PairBatch


class Method(Protocol):
    """How a student learns from window pairs; a subclass is a frozen dataclass whose fields are its options."""

    passes: ClassVar[int] = 1
    """How often a training step asks the network, or its EMA copy, about each pair."""
    needs: ClassVar[dict[str, str]] = {}
    """Values that fields of the student's row must have, such as ``{"prediction": "ddim_eps"}``."""
    perceptual: str | None
    """An entry of ``extractors`` that its loss asks how far apart two images look; a method without it has no such
    field."""

    def loss(self, student: Learner, target: Learner, pairs: PairBatch, rng: torch.Generator) -> torch.Tensor:
        """A scalar. ``target`` is the student's EMA copy, which takes no gradient; ``rng`` is on the CPU and a
        function of (seed, step). ``pairs`` may be a share of the step's batch: what is drawn for each pair is drawn by
        ``rng.per_item``, and the losses of equal shares must average to that of the batch."""
        ...
