"""How much of the teacher's variety a trial has.

Precision and recall, density and coverage over all samples; spread, Vendi score and LPIPS within a prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from scipy.special import entr

from perflow.metrics.alignment import correct
from perflow.metrics.intervals import Estimate, estimate, ratio
from perflow.metrics.trial import Images, Trial

NEIGHBOURS = 3
"""Of a precision's ball (arXiv 1904.06991, section 3.1)."""
DENSITY_NEIGHBOURS = 5
"""Of a density's ball (arXiv 2002.09797, section 3.2.3): equal distributions then have a coverage of 0.97."""


def precision(trial: Trial) -> Estimate:
    """Share of the trial's samples that lie where the teacher's do (low: wrong images).

    Improved precision (Kynkäänniemi et al., arXiv 1904.06991, eq. 2): inside one of the balls around the
    teacher's samples from other noise that reach to their third neighbour in the same set.
    """
    return _caught(trial.samples, trial.independent)


def recall(trial: Trial) -> Estimate:
    """Share of the teacher's samples that lie where the trial's do (low: missing variety)."""
    return _caught(trial.independent, trial.samples)


def density(trial: Trial) -> Estimate:
    """How densely the trial's samples lie where the teacher's do: from 0, 1 in the mean for equal distributions.

    Mean number of balls around the teacher's samples from other noise that hold a sample, over the fifth
    neighbour that a ball reaches to (Naeem et al., arXiv 2002.09797, eq. 4). One stray teacher sample, whose
    ball is large, raises precision; it hardly moves this.
    """

    def value(inside: np.ndarray) -> float:
        return float(inside.sum(1).mean() / DENSITY_NEIGHBOURS)

    return _within_reach(trial.samples, trial.independent, DENSITY_NEIGHBOURS, value)


def coverage(trial: Trial) -> Estimate:
    """Share of the teacher's samples with one of the trial's within their fifth neighbour (low: missing variety).

    Naeem et al., arXiv 2002.09797, eq. 5. The balls are the teacher's, as in ``density``: unlike ``recall`` it
    cannot be raised by scattered samples. N samples against M of an equal distribution have
    1 - prod (M - i) / (M + N - i), i = 1 to 5, in the mean.
    """

    def value(inside: np.ndarray) -> float:
        return float(inside.any(0).mean())

    return _within_reach(trial.samples, trial.independent, DENSITY_NEIGHBOURS, value)


def diversity(trial: Trial) -> Estimate:
    """Mean pairwise feature distance within a prompt, relative to the teacher's; 1 is the teacher's variety.

    Only samples that show what their prompt asks for count, since errors would raise it, and only
    prompts with two of them on both sides; a mean over prompts. NaN if there is no such prompt.
    """
    own, other = _spread(trial.samples, trial), _spread(trial.independent, trial)
    both = np.isfinite(own) & np.isfinite(other)
    groups = np.zeros(len(own), dtype=int)
    groups[trial.samples.prompts] = trial.samples.groups
    return ratio(np.where(both, own, 0), np.where(both, other, 0), groups)


def vendi(trial: Trial) -> Estimate:
    """Vendi score within a prompt relative to the teacher's: effective number of different samples, 1 is the teacher's.

    exp of the entropy of the eigenvalues of K / n, K the cosine similarity of n features (Friedman & Dieng,
    arXiv 2210.02410, eq. 2): from 1 for copies to n for orthogonal ones. Only samples that show what their
    prompt asks for count, as in ``diversity``; since the score grows with n, the first n of either side are
    compared, n the lesser of the two numbers. Sum over prompts with n > 1 over the teacher's. NaN if there is none.
    """
    own, other = _right(trial.samples, trial), _right(trial.independent, trial)
    scores, groups = np.zeros((2, len(own))), np.zeros(len(own), dtype=int)
    groups[trial.samples.prompts] = trial.samples.groups
    for prompt, sides in enumerate(zip(own, other, strict=True)):
        count = min(map(len, sides))
        if count > 1:
            scores[:, prompt] = [vendi_score(side[:count]) for side in sides]
    return ratio(*scores, groups)


def lpips_diversity(trial: Trial) -> Estimate:
    """Mean over prompts of the mean LPIPS distance between two samples of the prompt (Zhang et al., arXiv 1801.03924).

    In the network's own units, not over the teacher's, and of all samples: wrong ones raise it.
    """
    groups = np.zeros(len(trial.apart), dtype=int)
    groups[trial.samples.prompts] = trial.samples.groups
    return ratio(trial.apart.mean(1), np.ones(len(groups)), groups)


def vendi_score(features: np.ndarray) -> float:
    """Effective number, from 1 to n, of different rows of features [n, D] (arXiv 2210.02410, eq. 2, cosine kernel).

    A row of zeros is like no other.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    units = np.divide(features, lengths, out=np.zeros_like(features), where=lengths > 0)
    similarity = units @ units.T
    np.fill_diagonal(similarity, 1)
    shares = np.maximum(np.linalg.eigvalsh(similarity / len(features)), 0)
    return float(np.exp(entr(shares).sum()))


def _caught(points: Images, manifold: Images) -> Estimate:
    """Share of ``points`` inside the ``manifold``."""

    def value(inside: np.ndarray) -> float:
        return float(inside.any(1).mean())

    return _within_reach(points, manifold, NEIGHBOURS, value)


def _within_reach(points: Images, manifold: Images, neighbours: int, value: Callable[[np.ndarray], float]) -> Estimate:
    """``value`` of which of N points lie in which of M balls, bool [N, M]; a group is left out of both.

    NaN where too few are left for a ball.
    """
    if len(manifold.groups) - np.bincount(manifold.groups).max() <= neighbours:
        return estimate(np.full(2 + manifold.groups.max(), np.nan))
    distances = _distances(points.features, manifold.features)
    everything, *reduced = _left_out_radii(manifold, neighbours)
    values = [value(distances <= everything)]
    for group, reach in enumerate(reduced):
        values.append(value((distances <= reach)[np.ix_(points.groups != group, manifold.groups != group)]))
    return estimate(np.array(values))


@functools.lru_cache(maxsize=8)
def _left_out_radii(images: Images, neighbours: int) -> np.ndarray:
    """Squared distance [1 + G, N] to the neighbour of this number: among all, then without each group."""
    distances = _distances(images.features, images.features)
    np.fill_diagonal(distances, np.inf)
    count = int(images.groups.max()) + 1
    reach = min(neighbours + int(np.bincount(images.groups).max()), len(distances) - 1)
    nearest = np.argpartition(distances, reach - 1, axis=1)[:, :reach]
    near = np.take_along_axis(distances, nearest, 1)
    order = np.argsort(near, axis=1)
    near, members = np.take_along_axis(near, order, 1), images.groups[np.take_along_axis(nearest, order, 1)]
    radii = [near[:, neighbours - 1]]
    for group in range(count):
        remaining = np.where(members == group, np.inf, near)
        radii.append(np.partition(remaining, neighbours - 1, axis=1)[:, neighbours - 1])
    return np.stack(radii)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M]."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :]
    return np.maximum(squares - 2 * x @ y.T, 0)


def _right(images: Images, trial: Trial) -> list[np.ndarray]:
    """Features [n, D] of the correct samples of each prompt."""
    right = correct(images.predicted, trial.wanted)
    return [images.features[(images.prompts == prompt) & right] for prompt in range(int(images.prompts.max()) + 1)]


def _spread(images: Images, trial: Trial) -> np.ndarray:
    """Mean distance between two correct samples of each prompt [P]; NaN for prompts with fewer than two."""
    spreads = []
    for chosen in _right(images, trial):
        first, second = np.triu_indices(len(chosen), 1)
        lengths = np.linalg.norm(chosen[first] - chosen[second], axis=1)
        spreads.append(lengths.mean() if len(lengths) else np.nan)
    return np.array(spreads)
