"""Flows between two distributions on the plane: a tiny network over (x, t) that says the velocity dx/dt.

A base is a folder with ``config.json`` and the part ``network``. It was trained from data, with no teacher (1-rectified
flow, arXiv 2209.03003), so it has a flow of its own: one window, on which Euler steps are taken. Points are their own
latents [N, 2], there is nothing to decode, and captions say nothing.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.core import distributions
from perflow.core.chunks import fitting
from perflow.core.interpolation import Interpolation
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.windows import Windows

CONFIG, PART, WEIGHTS = "config.json", "network", "network.safetensors"
_WAVES = 5
"""Sines and cosines of t, of periods 2, 1, 1/2, …, so that a student's velocity may change from window to window."""


class Network(nn.Module):
    """x [B, 2], t [B] -> dx/dt [B, 2]; the middle sees inputs, and is asked for outputs, of about unit size.

    ``spread`` holds the root mean squares of a coordinate of the data and of the start.
    """

    def __init__(self, interpolation: str, spread: list[float], width: int, depth: int) -> None:
        super().__init__()
        self.path, self.spread = Interpolation(interpolation), spread
        sizes = [3 + 2 * _WAVES, *[width] * depth]
        layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The velocity, fp32."""
        angles = torch.pi * t[:, None] * 2.0 ** torch.arange(_WAVES, device=t.device)
        size = self.size(self.path.alpha(t), self.path.sigma(t)).to(x)
        said = self.body(torch.cat([x / size, t[:, None].to(x), angles.sin().to(x), angles.cos().to(x)], dim=1))
        return said * self.speed(t).to(x)

    def speed(self, t: Tensor) -> Tensor:
        """Root mean square of a coordinate of dx_t/dt, [B, 1] fp64."""
        return self.size(*self.path.rates(t))

    def size(self, of_data: Tensor, of_start: Tensor) -> Tensor:
        """Root mean square of a coordinate of a combination of data and start, [B, 1]."""
        return ((of_data * self.spread[0]) ** 2 + (of_start * self.spread[1]) ** 2).sqrt()[:, None]


class Plane:
    """A folder that ``save`` wrote, fp32 on ``device``."""

    prediction = "velocity"
    latent_shape = (2,)
    conditional, has_null, clip = False, False, None

    def __init__(self, folder: str | Path, device: str = "cpu"):
        self.folder, self.device = Path(folder), device
        keys = {"interpolation": str, "start": str, "start_scale": float, "spread": list, "width": int, "depth": int}
        self.config = artifacts.read_object(self.folder / CONFIG, "the configuration of a flow on the plane", **keys)
        self.schedule = Interpolation(self.config["interpolation"])

    @property
    def chunk(self) -> int:
        """Points that are computed at once."""
        return fitting(1, self.device)

    @property
    def flow(self) -> PiecewiseFlow:
        """One window from t = 1 to 0: a step of it is one of Euler's method."""
        return PiecewiseFlow(self.schedule, Windows((1, 0)), "straight", "velocity", self.prediction)

    @cached_property
    def unet(self) -> nn.Module:
        """The network."""
        network = new_network(self.config)
        network.load_state_dict(artifacts.read_tensors(self.folder / PART / WEIGHTS)[0])
        return network.to(self.device).eval().requires_grad_(False)

    def network(self, unet: nn.Module | None = None) -> Any:
        """``network(x, t, condition) -> velocity`` of ``unet`` (default: the base's); conditions are not read."""
        unet = self.unet if unet is None else unet
        return lambda x, t, condition: unet(x, t)

    def encode(self, points: np.ndarray) -> Tensor:
        """Points [N, 2] as latents."""
        return torch.from_numpy(points).float().to(self.device)

    def embed(self, captions: list[str]) -> dict[str, Tensor]:
        """Conditions without tensors."""
        return {}

    def condition(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same, whatever was kept."""
        return rows

    def noise(self, seed: int, label: str, items: list[int]) -> Tensor:
        """Points [N, 2] of the distribution it starts from."""
        return self.config["start_scale"] * distributions.draw(self.config["start"], seed, label, items)


def new_network(config: dict[str, Any]) -> Network:
    """An untrained network."""
    return Network(config["interpolation"], config["spread"], config["width"], config["depth"])


def save(folder: Path, config: dict[str, Any], network: nn.Module) -> None:
    """Write the folder of a flow."""
    artifacts.write_json(folder / CONFIG, config)
    artifacts.write_tensors(folder / PART / WEIGHTS, network.state_dict(), {})
