"""Whether an image shows what its prompt asks for."""

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


def correct(predicted: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether each item [N] has every wanted label; -1 wants nothing."""
    return np.all([(labels < 0) | (predicted[name] == labels) for name, labels in wanted.items()], axis=0)
