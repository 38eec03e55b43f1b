"""Distances between two sets of images: Fréchet and kernel (KID), to the teacher and to real images.

The teacher is represented by samples from other noise than the trial's, so a perfect student is as far
from it as a second set of the teacher's own samples: that row of the base is the floor.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from perflow.metrics.intervals import Estimate, estimate, group_sums, left_out
from perflow.metrics.trial import Images, Trial


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
    product = x @ y.T / x.shape[1] + 1
    return product * product * product


def kernel_distance(samples: Images, reference: Images) -> Estimate:
    """Squared maximum mean discrepancy as an unbiased U-statistic: 0 in the mean for equal distributions.

    mean k(x, x') + mean k(y, y') - 2 mean k(x, y). Two images of one prompt are not independent, so where
    sets have prompts, only pairs of *different* prompts count, within the sets and across them; without
    prompts this is the usual estimator (arXiv 1801.01401, eq. 4), which leaves out an image and itself.
    """
    within = _mean_kernel(samples, samples) + _left_out_within(reference)
    return estimate(within - 2 * _mean_kernel(samples, reference))


@functools.lru_cache(maxsize=8)
def _left_out_within(images: Images) -> np.ndarray:
    return _mean_kernel(images, images)


def _mean_kernel(a: Images, b: Images) -> np.ndarray:
    """Mean kernel of the allowed pairs: [1 + G] of all, then without each group; [1] without groups."""
    allowed = _allowed(a, b)
    total = _block_sums(np.where(allowed, kernel(a.features, b.features), 0.0), a, b)
    pairs = _block_sums(allowed.astype(np.float64), a, b)
    return np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _allowed(a: Images, b: Images) -> np.ndarray:
    """Which pairs [N, M] are of independent images."""
    if a.prompts is not None and b.prompts is not None:
        return a.prompts[:, None] != b.prompts[None, :]
    if a is b:
        return ~np.eye(len(a.features), dtype=bool)
    return np.ones((len(a.features), len(b.features)), dtype=bool)


def _block_sums(pairs: np.ndarray, a: Images, b: Images) -> np.ndarray:
    """Sum of ``pairs`` [N, M]: of all, then without the rows and columns of each group."""
    total = np.array([pairs.sum()])
    if a.groups is None and b.groups is None:
        return total
    rows = 0.0 if a.groups is None else group_sums(pairs.sum(1), a.groups)
    columns = 0.0 if b.groups is None else group_sums(pairs.sum(0), b.groups)
    both = 0.0
    if a.groups is not None and b.groups is not None:
        count = int(a.groups.max()) + 1
        both = np.array([pairs[np.ix_(a.groups == g, b.groups == g)].sum() for g in range(count)])
    return np.concatenate([total, total - rows - columns + both])
