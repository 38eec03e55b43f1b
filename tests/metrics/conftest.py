"""Sets of features with prompts and groups, as the metrics see them."""

from __future__ import annotations

import numpy as np
import pytest

from perflow.metrics.intervals import deal
from perflow.metrics.trial import Images


def image_set(features: np.ndarray, per_prompt: int | None = None, groups: int | np.ndarray = 4, **rest) -> Images:
    """Features [N, D] as a set: of prompts with ``per_prompt`` items each, or of independent images, which are left
    out only where ``groups`` [N] are given."""
    predicted = rest.pop("predicted", {"digit": np.zeros(len(features), dtype=int)})
    if per_prompt is None:
        return Images(features, predicted, groups=groups if isinstance(groups, np.ndarray) else None, **rest)
    prompts = np.arange(len(features)) // per_prompt
    return Images(features, predicted, prompts=prompts, groups=deal(prompts, groups), **rest)


def without(images: Images, group: int) -> Images:
    """The set without a group of prompts, as a set whose items were never there."""
    kept = images.groups != group
    predicted = {name: labels[kept] for name, labels in images.predicted.items()}
    _, prompts = np.unique(images.prompts[kept], return_inverse=True)
    latents = None if images.latents is None else images.latents[kept]
    return Images(images.features[kept], predicted, latents, prompts, deal(prompts, 2))


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own."""
    return np.random.default_rng(0)
