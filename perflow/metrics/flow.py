"""How closely a trial follows the teacher from the same noise, and how straight a student's flow is."""

from __future__ import annotations

import numpy as np

from perflow.metrics.intervals import Estimate, ratio
from perflow.metrics.trial import Trial


def teacher_mse(trial: Trial) -> Estimate:
    """Squared distance of latents to the teacher's from the same noise, over the squares of the teacher's.

    Fidelity to the teacher's pairing of noise and image: a model may be as good with another pairing.
    """
    own, teacher = (_rows(images.latents) for images in (trial.samples, trial.teacher))
    return ratio(np.square(own - teacher).sum(1), np.square(teacher).sum(1), trial.samples.groups)


def per_window(values: np.ndarray, groups: np.ndarray) -> list[Estimate]:
    """Means over items of values [n, K], one for each window."""
    return [ratio(column, np.ones(len(column)), groups) for column in values.T]


def _rows(latents: np.ndarray) -> np.ndarray:
    return latents.reshape(len(latents), -1).astype(np.float64)
