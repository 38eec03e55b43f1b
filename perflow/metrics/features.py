"""The feature network: a small classifier of a data set's attributes, trained on a split of its own.

Its 64-dimensional layer before the heads is what distances are measured in. Features are standardised
by their mean and deviation on the images it was trained on, so the numbers of one extractor can be
compared with each other and with no other extractor's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from perflow.core.chunks import chunked
from perflow.metrics.looking import Looks, Seen, expect, placed

DIMENSIONS = 64
_CHUNK = 128
_WIDTHS = (24, 32, 48)


class Extractor(Looks, nn.Module):
    """Convolutions to a 64-d feature, and one linear head per attribute on its activation.

    ``heads`` maps an attribute to its values, in the order of the labels; images are square with
    ``resolution`` pixels a side, a multiple of 16.
    """

    def __init__(self, heads: Mapping[str, Sequence[str]], resolution: int) -> None:
        super().__init__()
        self.values = {name: list(values) for name, values in heads.items()}
        self.resolution = resolution
        first, second, third = _WIDTHS
        self.body = nn.Sequential(
            nn.Conv2d(3, first, 4, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(first, second, 3, padding=1), nn.GroupNorm(8, second), nn.SiLU(),
            nn.Conv2d(second, second, 3, padding=1), nn.GroupNorm(8, second), nn.SiLU(),
            nn.Conv2d(second, third, 3, stride=2, padding=1), nn.GroupNorm(8, third), nn.SiLU(),
            nn.Flatten(), nn.Linear(third * (resolution // 4) ** 2, DIMENSIONS),
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(DIMENSIONS, len(v)) for name, v in self.values.items()})
        self.register_buffer("mean", torch.zeros(DIMENSIONS, dtype=torch.float64))
        self.register_buffer("deviation", torch.ones(DIMENSIONS, dtype=torch.float64))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Images [B, 3, H, W] in [-1, 1] to raw features [B, 64] and logits by attribute."""
        features = self.body(images)
        hidden = functional.silu(features)
        return features, {name: head(hidden) for name, head in self.heads.items()}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image, if it has the right size."""
        expect("extractor", image, self.resolution, self.resolution, 3)
        return image

    def look(self, prepared: np.ndarray) -> Seen:
        """uint8 images [N, H, W, 3] to standardised features, float64 [N, 64], and labels [N] by attribute."""
        raw, predicted = self._raw(prepared)
        return ((raw - self.mean.cpu()) / self.deviation.cpu()).numpy(), predicted

    @torch.no_grad()
    def classify(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Features [N, 64] as ``observe`` gives them to probabilities, float64 [N, values], by attribute."""
        raw = torch.from_numpy(features) * self.deviation.cpu() + self.mean.cpu()
        hidden = functional.silu(raw)
        logits = {
            name: functional.linear(hidden, head.weight.cpu().double(), head.bias.cpu().double())
            for name, head in self.heads.items()
        }
        return {name: part.softmax(1).numpy() for name, part in logits.items()}

    def standardise(self, images: np.ndarray) -> None:
        """Set the mean and deviation that ``observe`` uses to those of ``images``, in fp64."""
        raw, _ = self._raw(images)
        self.mean, self.deviation = raw.mean(0), raw.std(0).clamp_min(1e-6)

    @torch.no_grad()
    def _raw(self, images: np.ndarray) -> tuple[Tensor, dict[str, np.ndarray]]:
        def rows(part: Tensor) -> Tensor:
            features, logits = self(to_input(placed(part, self)))
            return torch.cat([features, *(logits[name] for name in self.values)], dim=1)

        out = chunked(rows, _CHUNK, torch.from_numpy(images)).cpu()
        features, *logits = out.split([DIMENSIONS, *map(len, self.values.values())], dim=1)
        labels = {name: part.argmax(1).numpy() for name, part in zip(self.values, logits, strict=True)}
        return features.double(), labels

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors."""
        return {"heads": self.values, "resolution": self.resolution}


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> Extractor:
    """An extractor from its saved tensors and ``Extractor.architecture()``, ready to observe."""
    heads = architecture["heads"]
    if not all(isinstance(value, str) for values in heads.values() for value in values):
        raise TypeError("a head's value is no text")
    extractor = Extractor(heads, architecture["resolution"])
    extractor.load_state_dict(dict(tensors))
    return extractor.eval().requires_grad_(False)


def to_input(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1
