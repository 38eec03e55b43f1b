"""How closely a trial follows the teacher from the same noise, how straight a student's flow is, and what it costs."""

from __future__ import annotations

import numpy as np

from perflow.metrics.intervals import Estimate, estimate, ratio
from perflow.metrics.trial import Trial


def teacher_mse(trial: Trial) -> Estimate:
    """Squared distance of latents to the teacher's from the same noise, over the squares of the teacher's.

    Fidelity to the teacher's pairing of noise and image: a model may be as good with another pairing.
    """
    own, teacher = (_rows(images.latents) for images in (trial.samples, trial.teacher))
    return ratio(np.square(own - teacher).sum(1), np.square(teacher).sum(1), trial.samples.groups)


def evaluations(trial: Trial) -> Estimate:
    """Network evaluations of a sample, which differ from sample to sample where the solver chooses its steps."""
    calls = trial.samples.calls.astype(np.float64)
    return ratio(calls, np.ones(len(calls)), trial.samples.groups)


def per_window(values: np.ndarray, groups: np.ndarray) -> list[Estimate]:
    """Means over items of values [n, K], one for each window."""
    return [ratio(column, np.ones(len(column)), groups) for column in values.T]


def start_gaps(own: np.ndarray, taught: np.ndarray, groups: np.ndarray) -> list[Estimate]:
    """How far a student's own states [n, K, ...] are from the starts it learnt from [n, K, ...], a value a window.

    The energy distance (Székely & Rizzo, 2013), 2 E|X - Y| - E|X - X'| - E|Y - Y'|, over E|Y - Y'|; without bias, so
    near 0 where the two are alike, and it can fall below. ``groups`` [n] are left out in turn on both sides.
    """
    return [_energy(own[:, k], taught[:, k], groups) for k in range(own.shape[1])]


def _energy(own: np.ndarray, taught: np.ndarray, groups: np.ndarray) -> Estimate:
    x, y = _rows(own), _rows(taught)
    across, within, among = _distances(x, y), _distances(x, x), _distances(y, y)
    kept = [np.ones(len(x), dtype=bool), *(groups != group for group in np.unique(groups))]

    def value(mask: np.ndarray) -> float:
        n, block = int(mask.sum()), np.ix_(mask, mask)
        inside, spread = (part[block].sum() / (n * (n - 1)) for part in (within, among))
        return float((2 * across[block].mean() - inside - spread) / spread)

    return estimate(np.array([value(mask) for mask in kept]))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T
    return np.sqrt(np.maximum(squares, 0))


def _rows(latents: np.ndarray) -> np.ndarray:
    return latents.reshape(len(latents), -1).astype(np.float64)
