"""Whether, and how well, an image shows what its prompt asks for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perflow.metrics.intervals import Estimate, ratio
from perflow.metrics.trial import Trial


def prompt_accuracy(trial: Trial) -> Estimate:
    """Share of samples in which every attribute that the prompt specifies is read right by the extractor.

    Samples of prompts that specify nothing cannot be wrong and do not count; NaN if there are no others.
    """
    asked = np.any([labels >= 0 for labels in trial.wanted.values()], axis=0)
    right = correct(trial.samples.predicted, trial.wanted)
    return ratio(right & asked, asked, trial.samples.groups)


def clip_score(trial: Trial) -> Estimate:
    """Mean over samples of max(100 cos, 0), cos between CLIP's features of the sample and of its prompt: from 0 to 100.

    CLIPScore (Hessel et al., arXiv 2104.08718, eq. 1) with the factor 100 that tables of text-to-image models use, in
    place of its 2.5, and the prompt as it stands, without "A photo depicts" before it. Every sample is cut off at 0 by
    itself. It is a number of one CLIP, and compares with no other's.
    """
    scores = np.maximum(100 * trial.agreement, 0)
    return ratio(scores, np.ones(len(scores)), trial.samples.groups)


def correct(predicted: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether each item [N] has every wanted label; -1 wants nothing."""
    return np.all([(labels < 0) | (predicted[name] == labels) for name, labels in wanted.items()], axis=0)
