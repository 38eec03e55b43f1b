"""Networks that judge samples beside the extractor, each for one metric: CLIP and LPIPS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perflow.ahead import helpers, mapped
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import CLIP, LPIPS
from perflow.metrics.looking import Item, Viewer
from perflow.metrics.observed import Drawn, load_extractor

_DOES = {CLIP: "embed", LPIPS: "within"}
"""What a network of each kind does that no other does; the code of a kind is reached by rows that name one alone."""


@dataclass(frozen=True)
class Judges:
    """Those that a row names; either may be missing."""

    networks: Mapping[str, Any]
    """By kind."""
    about: dict[str, dict[str, Any]]
    """How results name them, by kind."""
    device: str
    """Where they are."""
    features: Path | None = None
    """Where features are kept by content; None: nowhere."""

    @classmethod
    def load(
        cls, named: Mapping[str, tuple[str | None, Path | None]], device: str, features: Path | None = None
    ) -> Judges:
        """Kind -> name in the row and file; PerflowError if one is missing, unasked for, or of another kind."""
        networks, about = {}, {}
        for kind, (name, path) in named.items():
            if (name is None) != (path is None):
                given = "none was given" if path is None else f"the row names none, and {path} was given"
                raise PerflowError(f"--{kind}: goes with a row that names a network of kind {kind}; {given}")
            if name is not None:
                networks[kind], about[kind] = load_extractor(name, path, device)
                if not hasattr(networks[kind], _DOES[kind]):
                    raise PerflowError(f"{path}: not a network of kind {kind}")
        return cls(networks, about, device, features)

    def judged(
        self, drawn: Drawn, images: Sequence[Item], decode: Callable[[Item], np.ndarray] = store.decode,
        where: str = "images",
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Fields of a ``Trial`` from N ``images`` of the prompts of ``drawn``, through ``decode`` (``Viewer.see``)."""
        found = {}
        if CLIP in self.networks:
            viewer = Viewer(self.networks[CLIP], self.device, self.about[CLIP]["sha256"], self.features)
            found["agreement"] = cosines(viewer.see(images, decode, where)[0], self._told(drawn.texts)[drawn.prompts])
        if LPIPS in self.networks:
            decoded = mapped(decode, images, helpers(self.device))
            found["apart"] = self.networks[LPIPS].within(decoded, drawn.content["per_prompt"])
        return found

    def _told(self, texts: Sequence[str]) -> np.ndarray:
        return self.networks[CLIP].embed(texts)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine [N] between the rows of features [N, D] and [N, D]."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
