"""Bases that diffuse pixels: a ``UNet2DModel`` that is told nothing, or a class.

Latents are the images themselves, in [-1, 1]. A class is named by a caption; the condition is then ``label`` [N].
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perflow.errors import PerflowError
from perflow.models.parts import Parts
from perflow.models.stable_diffusion import to_images

_SHOWN = 12
"""Names of classes in a message."""


class Pixel(Parts):
    """A ``DDPMPipeline`` folder (or ``DDIMPipeline``, …): a UNet2DModel and its scheduler.

    ``classes`` names the classes of a network that reads one, in the order of their labels; ``null_class`` is the
    label, without a name, that stands for none. PerflowError if that does not fit the network, and for one that
    predicts its variance or whose samples its scheduler thresholds.
    """

    def __init__(
        self, folder: str | Path, device: str = "cpu", classes: list[str] | None = None, null_class: int | None = None
    ):
        super().__init__(folder, device)
        unet = self._config("unet", in_channels=int, out_channels=int)
        if unet["in_channels"] not in (1, 3) or unet["out_channels"] != unet["in_channels"]:
            raise PerflowError(
                f"{self.folder}: its network takes {unet['in_channels']} channels and says {unet['out_channels']};"
                " one that says as many as it takes, 1 or 3, is needed (none for a learned variance)"
            )
        if self._sampler.get("thresholding"):
            raise PerflowError(f"{self.folder}: its scheduler thresholds samples (thresholding), which no ODE does")
        if unet.get("class_embed_type") is not None:
            raise PerflowError(
                f"{self.folder}: its network embeds classes by '{unet['class_embed_type']}', not a table"
            )
        self._labels = _labels(self.folder, unet.get("num_class_embeds"), classes, null_class)
        self.conditional, self.has_null = self._labels is not None, null_class is not None
        if self._sampler.get("clip_sample"):
            self.clip = self._sampler.get("clip_sample_range", 1.0)

    @cached_property
    def unet(self) -> nn.Module:
        """The network."""
        from diffusers import UNet2DModel

        return self._load(UNet2DModel, "unet")

    @property
    def resolution(self) -> int:
        """Side of an image in pixels."""
        return max(self.latent_shape[1:])

    def network(self, unet: nn.Module | None = None) -> Any:
        """``network(x, timestep, condition) -> raw output`` of ``unet`` (default: the base's)."""
        unet = self.unet if unet is None else unet
        return lambda x, timestep, condition: unet(x, timestep, condition.get("label"), return_dict=False)[0]

    def encode(self, images: np.ndarray) -> Tensor:
        """Images uint8 [N, H, W, 3] -> fp32 [N, C, H, W] in [-1, 1]; one channel is the mean of three."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
        return pixels.mean(1, keepdim=True) if self.latent_shape[0] == 1 else pixels

    def decode(self, latents: Tensor) -> np.ndarray:
        """[N, C, H, W] -> images uint8 [N, H, W, 3], clamped to [-1, 1] and rounded as diffusers rounds them."""
        return to_images(self.pixels(latents))

    def pixels(self, latents: Tensor) -> Tensor:
        """[B, C, H, W] -> what they show, [B, 3, H, W] around [-1, 1]; a gradient passes."""
        return latents.expand(-1, 3, -1, -1)

    def embed(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions -> conditions: ``label`` int64 [N], or nothing. PerflowError for a caption that names no class."""
        if self._labels is None:
            return {}
        if unknown := [caption for caption in captions if caption not in self._labels]:
            names = [name for name in self._labels if name]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise PerflowError(f"no class '{unknown[0]}'; there are {', '.join(names[:_SHOWN])}{more}")
        return {"label": torch.tensor([self._labels[caption] for caption in captions], device=self.device)}


def _labels(
    folder: Path, count: int | None, classes: list[str] | None, null_class: int | None
) -> dict[str, int] | None:
    """Caption -> label, the null class's under the empty caption; None for a network that reads no class."""
    if count is None:
        if classes is not None or null_class is not None:
            raise PerflowError(f"{folder}: its network reads no class; take classes and null_class out of the row")
        return None
    labels = [label for label in range(count) if label != null_class]
    if classes is None or len(classes) != len(labels) or (null_class is not None and null_class >= count):
        without = "" if null_class is None else f", {null_class} of them for none"
        raise PerflowError(
            f"{folder}: its network knows {count} classes{without}; name the others in their order, as"
            f" classes: [a, b, …]; got {len(classes) if classes else 'no'} names"
        )
    return dict(zip(classes, labels, strict=True)) | ({} if null_class is None else {"": null_class})
