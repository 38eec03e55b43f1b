"""What a metric sees: one trial's samples, the teacher's, real images, and which items belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Images:
    """A set of N images, as the extractor and the prompts describe it.

    Compared by identity, so that what is derived from one set is computed once (``functools.lru_cache``).
    """

    features: np.ndarray
    """[N, D] float64, as the extractor gives them."""
    predicted: Mapping[str, np.ndarray]
    """Labels [N] the extractor reads, by attribute."""
    latents: np.ndarray | None = None
    """[N, ...], or None for real images."""
    prompts: np.ndarray | None = None
    """Index [N] of each item's prompt, or None where items are independent."""
    groups: np.ndarray | None = None
    """Jackknife group [N] of each item; the items of a prompt share one. None: nothing is ever left out."""
    paths: np.ndarray | None = None
    """[N, n + 1, 2], of points on the plane: where each started, its states, where it ended."""
    calls: np.ndarray | None = None
    """[N] network evaluations of each sample, or None of real images."""
    moments: tuple[np.ndarray, np.ndarray] | None = None
    """Mean [D] and covariance [D, D] of real images that are known by nothing else; features are then [0, D]."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One trial to be measured."""

    samples: Images
    teacher: Images
    """The teacher's samples from the same noise: item i has item i's noise and prompt."""
    independent: Images
    """The teacher's samples from other noise, for the same prompts."""
    real: Images
    """Real images, a fixed set."""
    wanted: Mapping[str, np.ndarray]
    """Labels [N] the prompts ask for, by attribute; -1 where a prompt leaves it open."""
    classify: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    """Features [N, D] to how likely each class is, [N, C] by attribute, of an extractor that tells classes."""
    agreement: np.ndarray | None = None
    """Cosine [N] between CLIP's features of each sample and of its prompt."""
    apart: np.ndarray | None = None
    """LPIPS distance [P, n (n - 1) / 2] between the n samples of each prompt, two by two."""
