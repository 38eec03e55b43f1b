"""What all families share: a pipeline folder whose parts load on first use, and the noise schedule it names."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.core.chunks import fitting
from perflow.core.schedule import Schedule
from perflow.errors import PerflowError
from perflow.models import PREDICTION_TYPES, schedulers

_CONFIG = "the configuration of this part"


class Parts:
    """The parts of a pipeline folder, in fp32 (weights) on ``device``, and what every family says of itself.

    A family also has ``encode`` (images uint8 [N, H, W, 3] -> latents fp32 [N, C, h, w]) and ``decode`` back,
    ``pixels`` (latents [B, ...] -> what they show, [B, 3, H, W] around [-1, 1], with a gradient), ``embed`` (captions
    -> condition), ``network(unet)``, a ``Network`` that reads those conditions, and ``resolution``, the side of its
    images. One that reads text (``READING``) has ``tokens`` (captions -> a small row each), which ``condition`` reads.
    """

    conditional: bool = True
    """Whether the network is told anything: where not, ``embed`` gives conditions without tensors."""
    has_null: bool = True
    """Whether ``embed([""])`` is what the network is told in place of a caption; guidance needs it."""
    clip: float | None = None
    """The base's claims of x0 are kept in [-clip, clip], as its checkpoint's own sampler keeps them."""

    def __init__(self, folder: str | Path, device: str = "cpu"):
        self.folder, self.device = Path(folder), device
        path = self.folder / "scheduler" / "scheduler_config.json"
        self.scheduler_config = artifacts.read_object(path, "a scheduler's configuration")
        self._sampler = schedulers.whole(self.scheduler_config, str(self.folder))
        kind = self._sampler["prediction_type"]
        if kind not in PREDICTION_TYPES:
            raise PerflowError(f"{self.folder}: prediction_type '{kind}' is not one of {', '.join(PREDICTION_TYPES)}")
        self.prediction = PREDICTION_TYPES[kind]

    @cached_property
    def schedule(self) -> Schedule:
        """The schedule of the checkpoint, never an assumed one."""
        return schedulers.schedule(self._sampler)

    @cached_property
    def chunk(self) -> int:
        """Items that are computed at once; what draws for no row may set it."""
        _, height, width = self.latent_shape
        return fitting(height * width, self.device)

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        """[channels, height, width] of what the network takes; nothing is loaded."""
        config = self._config("unet", sample_size=int | list, in_channels=int)
        size = config["sample_size"]
        height, width = size if isinstance(size, list) else (size, size)
        return config["in_channels"], height, width

    def condition(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rows [B, ...] of what is kept of captions -> their conditions: here the rows themselves."""
        return rows

    def _config(self, part: str, **keys: Any) -> dict[str, Any]:
        return artifacts.read_object(self.folder / part / "config.json", _CONFIG, **keys)

    def _load(self, kind: Any, part: str) -> nn.Module:
        model = self._read(kind, part, use_safetensors=True, torch_dtype=torch.float32)
        return model.to(self.device).eval().requires_grad_(False)

    def _read(self, kind: Any, part: str, **options: Any) -> Any:
        try:
            return kind.from_pretrained(self.folder / part, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise PerflowError(f"{self.folder / part}: cannot be loaded as {kind.__name__} ({reason})") from None
