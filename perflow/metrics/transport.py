"""The three guarantees of rectified flow as numbers, for points on the plane.

A coupling is pairs (start, end). Liu et al., arXiv 2209.03003: a rectified flow keeps the marginals (theorem 3.3),
raises no convex transport cost (theorem 3.5), and reflow makes paths straight (theorem 3.7). ``…_random`` is the
coupling it learns from at first, of the same starts with real points drawn independently of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from perflow.metrics.distance import kernel_distance, mean_of_pairs
from perflow.metrics.intervals import Estimate, estimate, ratio
from perflow.metrics.looking import Looks, Seen
from perflow.metrics.trial import Images, Trial


class Coordinates(Looks):
    """The "extractor" of points: they are their own features."""

    def look(self, prepared: np.ndarray) -> Seen:
        """Points [N, 2] as float64, and no labels."""
        return prepared.astype(np.float64), {}

    def to(self, device: str) -> Coordinates:
        """Itself: it computes nothing."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """No tensors."""
        return {}

    def architecture(self) -> dict[str, Any]:
        """Nothing to be known."""
        return {}


def coordinates(tensors: Mapping[str, Any], architecture: Mapping[str, Any]) -> Coordinates:
    """The extractor, of any file of its kind."""
    return Coordinates()


def energy_real(trial: Trial) -> Estimate:
    """Energy distance 2 E|x - y| - E|x - x'| - E|y - y'| to the real points, which are held fixed; 0 in the mean for
    equal distributions (Székely & Rizzo, 2013)."""
    return kernel_distance(trial.samples, trial.real, minus_distance)


def minus_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-|x - y| for points [N, D] and [M, D], the kernel whose discrepancy is the energy distance."""
    square = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return -np.sqrt(np.maximum(square, 0))


def transport_square(trial: Trial) -> Estimate:
    """E|end - start|²."""
    return _cost(_ends(trial.samples), trial.samples, 2)


def transport_norm(trial: Trial) -> Estimate:
    """E|end - start|."""
    return _cost(_ends(trial.samples), trial.samples, 1)


def transport_fourth(trial: Trial) -> Estimate:
    """E|end - start|⁴."""
    return _cost(_ends(trial.samples), trial.samples, 4)


def transport_square_random(trial: Trial) -> Estimate:
    """E|x_0 - start|² of the independent coupling."""
    return _cost(_random(trial), trial.samples, 2)


def transport_norm_random(trial: Trial) -> Estimate:
    """E|x_0 - start| of the independent coupling."""
    return _cost(_random(trial), trial.samples, 1)


def transport_fourth_random(trial: Trial) -> Estimate:
    """E|x_0 - start|⁴ of the independent coupling."""
    return _cost(_random(trial), trial.samples, 4)


def crossing(trial: Trial) -> Estimate:
    """How likely the straight segments from start to end of two independent pairs of the coupling are to cross."""
    return _crossing(_ends(trial.samples), trial.samples)


def crossing_random(trial: Trial) -> Estimate:
    """The same of the independent coupling."""
    return _crossing(_random(trial), trial.samples)


def straightness(trial: Trial) -> Estimate:
    """S = ∫ E|(z_1 - z_0) - dz/dt|² dt of the sampled paths, 0 for straight ones at constant speed (2209.03003, eq. 4).

    Of n equal steps in t; a path of one step is straight whatever the flow is.
    """
    paths = trial.samples.paths.astype(np.float64)
    steps = np.diff(paths, axis=1) * (paths.shape[1] - 1)
    chords = paths[:, -1:] - paths[:, :1]
    return _mean(np.square(steps - chords).sum(2).mean(1), trial.samples.groups)


def _ends(images: Images) -> np.ndarray:
    """Segments [N, 4] from start to end."""
    return np.concatenate([images.paths[:, 0], images.paths[:, -1]], axis=1).astype(np.float64)


def _random(trial: Trial) -> np.ndarray:
    """Segments [N, 4] from the starts to real points, used in turn where there are fewer."""
    starts = trial.samples.paths[:, 0]
    real = trial.real.features[np.arange(len(starts)) % len(trial.real.features)]
    return np.concatenate([starts, real], axis=1).astype(np.float64)


def _cost(segments: np.ndarray, images: Images, power: int) -> Estimate:
    return _mean(np.linalg.norm(segments[:, 2:] - segments[:, :2], axis=1) ** power, images.groups)


def _mean(values: np.ndarray, groups: np.ndarray) -> Estimate:
    return ratio(values, np.ones(len(values)), groups)


def _crossing(segments: np.ndarray, images: Images) -> Estimate:
    return estimate(mean_of_pairs(replace(images, features=segments, prompts=None), crosses))


def crosses(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether segments [N, 4] and [M, 4] (x, y of either end) cross inside both: [N, M] of 0.0 and 1.0."""

    def side(line: np.ndarray, point: np.ndarray) -> np.ndarray:
        """On which side of lines [N, 4] points [M, 2] lie, [N, M]."""
        along = line[:, 2:] - line[:, :2]
        away = point[None] - line[:, None, :2]
        return along[:, None, 0] * away[..., 1] - along[:, None, 1] * away[..., 0]

    apart_a = side(a, b[:, :2]) * side(a, b[:, 2:]) < 0
    apart_b = (side(b, a[:, :2]) * side(b, a[:, 2:]) < 0).T
    return (apart_a & apart_b).astype(np.float64)
