"""How much of the teacher's variety a trial has: precision and recall, and spread within a prompt."""

from __future__ import annotations

import functools

import numpy as np

from perflow.metrics.alignment import correct
from perflow.metrics.intervals import Estimate, estimate, ratio
from perflow.metrics.trial import Images, Trial

NEIGHBOURS = 3


def precision(trial: Trial) -> Estimate:
    """Share of the trial's samples that lie where the teacher's do (low: wrong images).

    Improved precision (Kynkäänniemi et al., arXiv 1904.06991, eq. 2): inside one of the balls around the
    teacher's samples from other noise that reach to their third neighbour in the same set.
    """
    return _covered(trial.samples, trial.independent)


def recall(trial: Trial) -> Estimate:
    """Share of the teacher's samples that lie where the trial's do (low: missing variety)."""
    return _covered(trial.independent, trial.samples)


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


def _covered(points: Images, manifold: Images) -> Estimate:
    """Share of ``points`` inside the ``manifold``; a group of prompts is left out of both."""
    distances = _distances(points.features, manifold.features)
    radii = _left_out_radii(manifold)
    inside = [(distances <= reach).any(1) for reach in radii]
    values = [inside[0].mean()]
    values += [within[points.groups != group].mean() for group, within in enumerate(inside[1:])]
    return estimate(np.array(values))


@functools.lru_cache(maxsize=8)
def _left_out_radii(images: Images) -> np.ndarray:
    """Squared distance [1 + G, N] to the third neighbour: among all, then without each group.

    -1 for the items of the group that is left out: their ball holds nothing.
    """
    distances = _distances(images.features, images.features)
    np.fill_diagonal(distances, np.inf)
    count = int(images.groups.max()) + 1
    reach = min(NEIGHBOURS + int(np.bincount(images.groups).max()), len(distances) - 1)
    nearest = np.argpartition(distances, reach - 1, axis=1)[:, :reach]
    near = np.take_along_axis(distances, nearest, 1)
    order = np.argsort(near, axis=1)
    near, members = np.take_along_axis(near, order, 1), images.groups[np.take_along_axis(nearest, order, 1)]
    radii = [near[:, min(NEIGHBOURS, reach) - 1]]
    for group in range(count):
        remaining = np.where(members == group, np.inf, near)
        third = np.partition(remaining, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
        radii.append(np.where(images.groups == group, -1.0, third))
    return np.stack(radii)


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances [N, M]."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :]
    return np.maximum(squares - 2 * x @ y.T, 0)


def _spread(images: Images, trial: Trial) -> np.ndarray:
    """Mean distance between two correct samples of each prompt [P]; NaN for prompts with fewer than two."""
    right = correct(images.predicted, trial.wanted)
    spreads = np.full(int(images.prompts.max()) + 1, np.nan)
    for prompt in range(len(spreads)):
        chosen = images.features[(images.prompts == prompt) & right]
        if len(chosen) > 1:
            first, second = np.triu_indices(len(chosen), 1)
            spreads[prompt] = np.linalg.norm(chosen[first] - chosen[second], axis=1).mean()
    return spreads
