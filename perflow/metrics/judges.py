"""Networks that judge samples beside the extractor, each for one metric: CLIP and LPIPS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perflow.errors import PerflowError
from perflow.metrics import CLIP, LPIPS
from perflow.metrics.observed import Drawn, Remembered, load_extractor

_DOES = {CLIP: "embed", LPIPS: "within"}
"""What a network of each kind does that no other does; the code of a kind is reached by rows that name one alone."""


@dataclass(frozen=True)
class Judges:
    """Those that a row names; either may be missing."""

    networks: Mapping[str, Any]
    """By kind."""
    about: dict[str, dict[str, Any]]
    """How results name them, by kind."""
    features: Path | None = None
    """Where features are kept by content; None: nowhere."""

    @classmethod
    def load(cls, named: Mapping[str, tuple[str | None, Path | None]], features: Path | None = None) -> Judges:
        """Kind -> name in the row and file; PerflowError if one is missing, unasked for, or of another kind."""
        networks, about = {}, {}
        for kind, (name, path) in named.items():
            if (name is None) != (path is None):
                given = "none was given" if path is None else f"the row names none, and {path} was given"
                raise PerflowError(f"--{kind}: goes with a row that names a network of kind {kind}; {given}")
            if name is not None:
                networks[kind], about[kind] = load_extractor(name, path)
                if not hasattr(networks[kind], _DOES[kind]):
                    raise PerflowError(f"{path}: not a network of kind {kind}")
        return cls(networks, about, features)

    def judged(self, drawn: Drawn, images: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of a ``Trial`` from uint8 images [N, H, W, 3] of the prompts of ``drawn``."""
        found = {}
        if CLIP in self.networks:
            found["agreement"] = cosines(self._seen(images), self._told(drawn.texts)[drawn.prompts])
        if LPIPS in self.networks:
            found["apart"] = self.networks[LPIPS].within(images, drawn.content["per_prompt"])
        return found

    def _seen(self, images: np.ndarray) -> np.ndarray:
        network = self.networks[CLIP]
        if self.features is not None:
            network = Remembered(network, self.about[CLIP]["sha256"], self.features)
        return network.observe(images)[0]

    def _told(self, texts: Sequence[str]) -> np.ndarray:
        return self.networks[CLIP].embed(texts)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine [N] between the rows of features [N, D] and [N, D]."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
