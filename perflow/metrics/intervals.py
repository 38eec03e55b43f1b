"""Intervals by a delete-group jackknife over prompts, and Holm's correction.

Prompts are dealt into G groups; a statistic is computed without each group in turn, and the spread of
these replicates gives its variance (Shao & Tu, The Jackknife and Bootstrap, 1995, section 2.3). All
images of a prompt stay together, because they are not independent of each other.

What an interval covers: the *expectation of the statistic at this number of samples*, under new noise and
new prompts, for one trained model. For Fréchet distances that expectation lies above the distance of
the two distributions by a bias of order 1/N; the interval is centred on the value at full N, because
replicates, with N (1 - 1/G) samples, carry more of that bias (they all carry the same, so it does not
enter the variance). The percentile bootstrap is not used: resampling repeats items, which
moves Fréchet distances and nearest neighbours far from their value, and its intervals miss it.
Near zero, where a distance between equal distributions has no first-order term, the jackknife
overstates the variance (Efron & Stein, 1981), so intervals there are too wide rather than too narrow.
So are those of shares of nearest-neighbour balls (precision, recall, density, coverage), which are no smooth
function of the items: of 95 % intervals 99 % hold the expectation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Estimate(NamedTuple):
    """A statistic of all items, and its G values with one group of prompts left out."""

    value: float
    replicates: np.ndarray


class Interval(NamedTuple):
    """A value and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def deal(prompts: np.ndarray, count: int) -> np.ndarray:
    """Group [N] of each item: prompts [N] are dealt in turn to ``count`` groups, or as many as prompts."""
    return prompts % min(count, int(prompts.max()) + 1)


def group_sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums over the items of each group: [N, ...] -> [G, ...]."""
    sums = np.zeros((int(groups.max()) + 1, *values.shape[1:]))
    np.add.at(sums, groups, values)
    return sums


def left_out(sums: np.ndarray) -> np.ndarray:
    """Group sums [G, ...] -> [1 + G, ...]: the total, then the total without each group."""
    total = sums.sum(0)
    return np.concatenate([total[None], total - sums])


def estimate(values: np.ndarray) -> Estimate:
    """An Estimate from [1 + G] values: of all items, then without each group."""
    return Estimate(float(values[0]), np.asarray(values[1:], dtype=np.float64))


def ratio(numerator: np.ndarray, denominator: np.ndarray, groups: np.ndarray) -> Estimate:
    """sum(numerator) / sum(denominator) over items [N]; NaN where nothing is left to divide by."""
    above, below = left_out(group_sums(numerator, groups)), left_out(group_sums(denominator, groups))
    return estimate(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))


def standard_error(replicates: Sequence[float] | np.ndarray) -> float:
    """Standard error from the G leave-one-group-out values r: ((G-1)/G sum (r - mean r)^2)^(1/2)."""
    replicates = np.asarray(replicates, dtype=np.float64)
    count = len(replicates)
    return float(np.sqrt((count - 1) / count * np.square(replicates - replicates.mean()).sum()))


def interval(found: Estimate, confidence: float) -> Interval:
    """The value plus and minus a t quantile with G - 1 degrees of freedom times the standard error."""
    quantile = stdtrit(len(found.replicates) - 1, 0.5 + confidence / 2)
    reach = float(quantile) * standard_error(found.replicates)
    return Interval(found.value, found.value - reach, found.value + reach)


def holm(pvalues: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm, 1979), in the order given; each at most 1.

    Rejecting those below alpha keeps the chance of any false rejection below alpha.
    """
    pvalues = np.asarray(pvalues, dtype=np.float64)
    order = np.argsort(pvalues, kind="stable")
    steps = pvalues[order] * np.arange(len(pvalues), 0, -1)
    adjusted = np.empty_like(pvalues)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(steps) else steps
    return adjusted
