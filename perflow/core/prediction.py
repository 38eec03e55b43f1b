"""What a base's output means: each prediction type is two inverse functions, to and from epsilon.

Everything follows from x = alpha x0 + sigma eps with alpha² + sigma² = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from perflow.core.broadcast import per_item, working_dtype
from perflow.errors import PerflowError

Scale = float | Tensor
Conversion = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Prediction(NamedTuple):
    """Two inverse functions of (output or epsilon, x, alpha, sigma)."""

    to_epsilon: Conversion
    from_epsilon: Conversion


PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(
        to_epsilon=lambda output, x, alpha, sigma: output,
        from_epsilon=lambda eps, x, alpha, sigma: eps,
    ),
    # v = alpha eps - sigma x0 (progressive distillation, arXiv 2202.00512, appendix D)
    "v": Prediction(
        to_epsilon=lambda output, x, alpha, sigma: alpha * output + sigma * x,
        from_epsilon=lambda eps, x, alpha, sigma: (eps - sigma * x) / alpha,
    ),
    "x0": Prediction(
        to_epsilon=lambda output, x, alpha, sigma: (x - alpha * output) / sigma,
        from_epsilon=lambda eps, x, alpha, sigma: (x - sigma * eps) / alpha,
    ),
}


def to_epsilon(prediction: str, output: Tensor, x: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
    """The noise that ``output`` claims for ``x`` [B, ...]; alpha, sigma: scalars or [B]; fp32 (or fp64)."""
    return _convert(_find(prediction).to_epsilon, output, x, alpha, sigma)


def from_epsilon(prediction: str, eps: Tensor, x: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
    """The inverse of ``to_epsilon``; for v and x0 it needs alpha > 0, as noise alone says nothing of data."""
    return _convert(_find(prediction).from_epsilon, eps, x, alpha, sigma)


def _convert(function: Conversion, value: Tensor, x: Tensor, alpha: Scale, sigma: Scale) -> Tensor:
    dtype = working_dtype(value, x)
    value, x = value.to(dtype), x.to(dtype)
    return function(value, x, per_item(alpha, x), per_item(sigma, x))


def _find(prediction: str) -> Prediction:
    if prediction not in PREDICTIONS:
        raise PerflowError(f"prediction: no '{prediction}'; a base predicts one of {', '.join(PREDICTIONS)}")
    return PREDICTIONS[prediction]
