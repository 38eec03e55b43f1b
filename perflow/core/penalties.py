"""How much an error counts: one number an item, from its mean squared error."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

HUBER_C = 0.00054
"""The constant of the pseudo-Huber loss of one element (improved consistency training, arXiv 2310.14189, §3.3)."""


def mean_square(said: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of each item: [B, ...] and [B, ...] -> [B]."""
    return (said - wanted).square().flatten(1).mean(1)


def _huber(square: Tensor) -> Tensor:
    """sqrt(‖e‖² + c²) - c with c = 0.00054 sqrt(d) for d elements, divided by sqrt(d): so d drops out."""
    return (square + HUBER_C**2).sqrt() - HUBER_C


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {"mse": lambda square: square, "huber": _huber}
"""Mean squared error of each item [B] -> what it counts [B]; with huber outliers count linearly."""
