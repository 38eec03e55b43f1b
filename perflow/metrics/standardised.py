"""A feature network whose features are standardised by images that its entry of params.yaml names (ADR 28)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow.errors import PerflowError
from perflow.metrics.looking import Looks, Seen

MEAN, SCALE = "standardise.mean", "standardise.scale"
"""Tensors beside the network's own, float64 [D]."""


@dataclass(frozen=True)
class Standardised(Looks):
    """A network, and (feature - mean) x scale in place of its features."""

    network: Any
    mean: np.ndarray
    """[D] float64, over the images."""
    scale: np.ndarray
    """[D] float64: one over the deviation (dividing by N - 1); 0 where no two images differ: such a feature has no unit
    and says nothing."""

    @classmethod
    def by(cls, network: Any, features: np.ndarray) -> Standardised:
        """``network`` standardised by its own features [N, D] of some images; PerflowError for fewer than two."""
        if len(features) < 2:
            raise PerflowError(f"features are standardised by two images or more; got {len(features)}")
        differ = features.min(0) < features.max(0)
        deviation = np.where(differ, features.std(0, ddof=1), 1.0)
        return cls(network, features.mean(0), np.where(differ, 1 / deviation, 0.0))

    @classmethod
    def split(cls, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], np.ndarray, np.ndarray]:
        """The network's own tensors, mean and scale."""
        own = {name: tensor for name, tensor in tensors.items() if name not in (MEAN, SCALE)}
        return own, tensors[MEAN].numpy(), tensors[SCALE].numpy()

    @property
    def values(self) -> Mapping[str, Sequence[str]]:
        """As the network's."""
        return self.network.values

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """As the network's."""
        return self.network.prepare(image)

    def look(self, prepared: np.ndarray) -> Seen:
        """As the network's, the features standardised."""
        features, labels = self.network.look(prepared)
        return self.standardised(features), labels

    def to(self, device: str) -> Standardised:
        """Itself, its network on ``device``."""
        self.network.to(device)
        return self

    def classify(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """As the network's, of features [N, D] as ``observe`` gives them."""
        deviation = np.divide(1, self.scale, out=np.zeros_like(self.scale), where=self.scale > 0)
        return self.network.classify(features * deviation + self.mean)

    def standardised(self, features: np.ndarray) -> np.ndarray:
        """The network's own features [N, D] as ``observe`` gives them."""
        return (features - self.mean) * self.scale

    def state_dict(self) -> dict[str, Tensor]:
        """The network's, with mean and scale."""
        beside = {MEAN: torch.from_numpy(self.mean), SCALE: torch.from_numpy(self.scale)}
        return self.network.state_dict() | beside

    def architecture(self) -> dict[str, Any]:
        """As the network's."""
        return self.network.architecture()
