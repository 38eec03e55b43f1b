"""How far apart two batches of latents look: what a perceptual loss is made of (InstaFlow, arXiv 2309.06380).

The networks are entries of ``extractors``: an LPIPS of the user's own, or SqueezeNet, whose distance is LPIPS's without
its learned weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from perflow.metrics.observed import load_extractor

Apart = Callable[[Tensor, Tensor], Tensor]
"""(latents [B, ...], latents [B, ...]) -> distances [B], whose gradient reaches the first."""


def apart(name: str, path: Path, pixels: Callable[[Tensor], Tensor], device: str) -> Apart:
    """By the extractor ``name`` in ``path``, of what ``pixels`` shows: latents [B, ...] -> [B, 3, H, W] around [-1, 1].

    Both compute in fp32, whatever the training does; images are not cut off at black and white, so that every pixel
    has a gradient.
    """
    network = load_extractor(name, path)[0].to(device)

    def distances(said: Tensor, wanted: Tensor) -> Tensor:
        with torch.autocast(said.device.type, enabled=False):
            with torch.no_grad():
                shown = _bytes(pixels(wanted.float()))
            return network.apart(_bytes(pixels(said.float())), shown)

    return distances


def _bytes(pixels: Tensor) -> Tensor:
    """From around [-1, 1] to around [0, 255]."""
    return (pixels + 1) * 127.5
