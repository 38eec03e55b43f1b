"""SqueezeNet 1.0 as a feature network, with weights trained on ImageNet by others.

(Iandola et al., arXiv 1602.07360.) Distances in its features are named after the entry of params.yaml that
holds it, such as FD-SqueezeNet; they compare with no other network's, FID's Inception included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from perflow.core.chunks import chunked
from perflow.errors import PerflowError
from perflow.metrics.looking import Looks, Seen, expect, placed

DIMENSIONS = 512
SIDE = 227
MEAN = (104.0, 117.0, 123.0)
"""Of blue, green and red, which the network reads in this order."""
_CHUNK = 32


class SqueezeNet(Looks, nn.Module):
    """The convolutions, whose output is averaged over positions to 512 features; no classifier.

    Images of any size are resized to 227 x 227 (bilinear, antialiased) and read as Caffe does: blue, green, red
    from 0 to 255, less ``MEAN``.
    """

    def __init__(self) -> None:
        from torchvision.models import squeezenet1_0

        super().__init__()
        self.features = squeezenet1_0(weights=None).features

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to float32 [B, 512], none below 0."""
        return self.features(_prepared(images.permute(0, 3, 1, 2).float())).mean((2, 3))

    def apart(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance [B] between images [B, 3, H, W] from 0 to 255 and as many others, with a gradient.

        LPIPS without its learned weights (arXiv 1801.03924, eq. 1 with w = 1): activations before each pooling and at
        the end, each position's scaled to length 1, squared differences averaged over positions, summed over layers.
        """
        total = one.new_zeros(len(one))
        sides = [_prepared(side) for side in (one, other)]
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                total = total + _differ(*sides)
            sides = [layer(side) for side in sides]
        return total + _differ(*sides)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The image: it is resized where the network is."""
        expect("SqueezeNet", image, "H", "W", 3)
        return image

    @torch.no_grad()
    def look(self, prepared: np.ndarray) -> Seen:
        """uint8 images [N, H, W, 3] to features as they are, float64 [N, 512], and no labels."""
        rows = chunked(lambda part: self(placed(part, self)), _CHUNK, torch.from_numpy(prepared))
        return rows.cpu().double().numpy(), {}

    def architecture(self) -> dict[str, Any]:
        """What ``restore`` needs beside the tensors: nothing."""
        return {}


def _prepared(images: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] from 0 to 255 as the network reads them."""
    wide = functional.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)
    return wide.flip(1) - wide.new_tensor(MEAN)[:, None, None]


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Squared difference [B] of activations [B, C, H, W] of length 1 along C, averaged over positions."""
    one, other = (functional.normalize(side, dim=1, eps=1e-10) for side in (one, other))
    return (one - other).square().sum(1).mean((1, 2))


def restore(tensors: Mapping[str, Tensor], architecture: Mapping[str, Any]) -> SqueezeNet:
    """SqueezeNet 1.0 from tensors under torchvision's names, those of its classifier aside, ready to observe.

    PerflowError naming the first tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = SqueezeNet(**architecture)
    wanted = network.state_dict()
    given = {name: tensor.float() for name, tensor in tensors.items() if not name.startswith("classifier.")}
    for name in sorted(wanted.keys() ^ given.keys()):
        problem = "no tensor" if name in wanted else "an unknown tensor"
        raise PerflowError(f"not SqueezeNet 1.0 under torchvision's names: {problem} '{name}'")
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(wanted[name].shape)}"
            raise PerflowError(f"not SqueezeNet 1.0 under torchvision's names: '{name}' is {shapes}")
    network.load_state_dict(given, assign=True)
    return network.eval().requires_grad_(False)
