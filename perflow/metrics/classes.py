"""How sure a classifier is of each image, and how evenly the images fall to its classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import numpy as np
from scipy.special import entr

from perflow.metrics.intervals import Estimate, estimate, group_sums, left_out
from perflow.metrics.trial import Trial


def inception_score(trial: Trial) -> Estimate:
    """exp of the mean KL(p(y|x) || p(y)): from 1 to C, the number of classes (Salimans et al., arXiv 1606.03498, §4).

    p(y|x) is what the extractor says of a sample, p(y) its mean over all of the trial's samples: no splits, whose
    number would change the value. Classes are those of the extractor, so only FID's Inception gives the Inception Score
    of the literature, of images that its "clean" mode resizes. One that reads several attributes counts their
    combinations, which it reads independently of each other.
    """
    joint = _joint(trial.classify(trial.samples.features))
    groups = trial.samples.groups
    counts = left_out(np.bincount(groups).astype(np.float64))
    said = left_out(group_sums(entr(joint).sum(1), groups)) / counts
    overall = entr(left_out(group_sums(joint, groups)) / counts[:, None]).sum(1)
    return estimate(np.exp(overall - said))


def _joint(probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    """Probabilities [N, product of C] of every combination of one class of each attribute [N, C]."""
    return reduce(lambda a, b: (a[:, :, None] * b[:, None]).reshape(len(a), -1), probabilities.values())
