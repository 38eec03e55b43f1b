"""Distances between two sets of images: Fréchet and kernel (KID), to the teacher and to real images.

The teacher is represented by samples from other noise than the trial's, so a perfect student is as far
from it as a second set of the teacher's own samples: that row of the base is the floor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from perflow.metrics.intervals import Estimate, estimate, group_sums, left_out
from perflow.metrics.trial import Images, Trial

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Features [N, D] and [M, D] -> [N, M]."""


def fd_teacher(trial: Trial) -> Estimate:
    """Fréchet distance to the teacher's samples from other noise; a group is left out on both sides."""
    return _frechet(trial.samples, trial.independent)


def fd_real(trial: Trial) -> Estimate:
    """Fréchet distance to the real images, which are held fixed."""
    return _frechet(trial.samples, trial.real)


def kid_teacher(trial: Trial) -> Estimate:
    """Kernel distance to the teacher's samples from other noise; a group is left out on both sides."""
    return kernel_distance(trial.samples, trial.independent)


def kid_real(trial: Trial) -> Estimate:
    """Kernel distance to the real images, which are held fixed."""
    return kernel_distance(trial.samples, trial.real)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean [D] and covariance [D, D] of a set of features."""

    mean: np.ndarray
    covariance: np.ndarray

    @functools.cached_property
    def root(self) -> np.ndarray:
        """Symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def moments(features: np.ndarray) -> Moments:
    """Moments of features [N, D]; the covariance divides by N - 1."""
    return _moments_of_sums(*(part[0] for part in _sums(features, np.zeros(len(features), dtype=int))))


def frechet(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in fp64.

    (Dowson & Landau, 1982; Heusel et al., arXiv 1706.08500.) The trace of the root is the sum of the roots of
    the eigenvalues of the symmetric C_b^(1/2) C_a C_b^(1/2), which no rounding can make complex.
    """
    eigenvalues = np.linalg.eigvalsh(b.root @ a.covariance @ b.root)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = np.square(a.mean - b.mean).sum()
    return float(shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross)


def _frechet(samples: Images, reference: Images) -> Estimate:
    own, other = _left_out_moments(samples), _left_out_moments(reference)
    if len(other) == 1:
        other = other * len(own)
    return estimate(np.array([frechet(a, b) for a, b in zip(own, other, strict=True)]))


@functools.lru_cache(maxsize=8)
def _left_out_moments(images: Images) -> list[Moments]:
    """Moments of all items, then without each group; of all items only where nothing is left out."""
    if images.moments is not None:
        return [Moments(*images.moments)]
    if images.groups is None:
        return [moments(images.features)]
    sums = [left_out(part) for part in _sums(images.features, images.groups)]
    return [_moments_of_sums(*parts) for parts in zip(*sums, strict=True)]


def _sums(features: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of items [G], sums [G, D] and sums of outer products [G, D, D] of each group."""
    members = [features[groups == group] for group in range(int(groups.max()) + 1)]
    outer = np.stack([part.T @ part for part in members])
    return np.array([float(len(part)) for part in members]), group_sums(features, groups), outer


def _moments_of_sums(count: float, total: np.ndarray, outer: np.ndarray) -> Moments:
    mean = total / count
    return Moments(mean, (outer - count * np.outer(mean, mean)) / (count - 1))


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x·y / D + 1)^3 for features [N, D] and [M, D] (Binkowski et al., arXiv 1801.01401, eq. 4)."""
    product = x @ y.T
    product /= x.shape[1]
    product += 1
    return product * product * product


def kernel_distance(samples: Images, reference: Images, kernel: Kernel = kernel) -> Estimate:
    """Squared maximum mean discrepancy, unbiased: 0 in the mean for equal distributions.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y), where x and x' are drawn independently of each other.
    Independent images give the usual U-statistic (arXiv 1801.01401, eq. 4), which leaves out pairs of an
    image and itself. Images of a list of prompts stand for the mixture over that list: the pairs of one
    prompt then keep their share of the mixture without their diagonal (a stratified U-statistic).
    """
    within = mean_of_pairs(samples, kernel) + mean_of_pairs(reference, kernel)
    return estimate(within - 2 * _across(samples, reference, kernel))


@functools.lru_cache(maxsize=8)
def mean_of_pairs(images: Images, kernel: Kernel) -> np.ndarray:
    """Mean kernel of two independent images of a set: [1 + G] of all, then without each group; or [1]."""
    values, counts = kernel(images.features, images.features), _counts(images)
    total = _without_groups(values, images.groups, images.groups)
    if images.prompts is None:
        own = values.diagonal()
        total -= own.sum() if images.groups is None else left_out(group_sums(own, images.groups))
        return total / (counts * (counts - 1))
    members = [np.flatnonzero(images.prompts == prompt) for prompt in np.unique(images.prompts)]
    sizes = np.array([len(chosen) for chosen in members])
    blocks = np.array([values[np.ix_(chosen, chosen)].sum() for chosen in members])
    diagonals = np.array([values[chosen, chosen].sum() for chosen in members])
    others = np.divide(sizes, sizes - 1, out=np.full(len(sizes), np.nan), where=sizes > 1)
    excess = blocks - others * (blocks - diagonals)
    total -= left_out(group_sums(excess, images.groups[[chosen[0] for chosen in members]]))
    return total / np.square(counts)


def _across(a: Images, b: Images, kernel: Kernel) -> np.ndarray:
    """Mean kernel of an image of ``a`` and one of ``b``: [1 + G] of all, then without each group."""
    total = _without_groups(kernel(a.features, b.features), a.groups, b.groups)
    return total / (_counts(a) * _counts(b))


def _counts(images: Images) -> np.ndarray:
    """Number of images: [1 + G] of all, then without each group; [1] where nothing is left out."""
    if images.groups is None:
        return np.array([float(len(images.features))])
    return left_out(np.bincount(images.groups).astype(np.float64))


def _without_groups(values: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    """Sum of a matrix [N, M]: of all, then without the rows and columns of each group; [1] without groups."""
    if rows is None and columns is None:
        return np.array([values.sum()])
    if rows is None or columns is None:
        given, sums = (columns, values.sum(0)) if rows is None else (rows, values.sum(1))
        return left_out(group_sums(sums, given))
    blocks = _members(rows).T @ values @ _members(columns)
    total = blocks.sum()
    return np.append(total, total - blocks.sum(0) - blocks.sum(1) + blocks.diagonal())


def _members(groups: np.ndarray) -> np.ndarray:
    """[N, G], 1 where an item belongs to a group."""
    return np.eye(int(groups.max()) + 1)[groups]
