"""A UNet of diffusers that is told its guidance: its time embedding gets a matrix for the embedded guidance.

diffusers calls its size ``time_cond_proj_dim``; its pipelines then embed their ``guidance_scale`` and call the network
once a step. The matrix starts at 0: until it is taught, the network says what it said, at every guidance.
"""

from __future__ import annotations

from torch import nn

OPTION = "time_cond_proj_dim"
"""The size in a UNet's configuration."""


def insert(unet: nn.Module, size: int) -> None:
    """Let ``unet``, a ``UNet2DConditionModel``, take a guidance embedded in ``size`` numbers, in place."""
    first = unet.time_embedding.linear_1
    like = {"device": first.weight.device, "dtype": first.weight.dtype}
    added = nn.utils.skip_init(nn.Linear, size, first.in_features, bias=False, **like)
    nn.init.zeros_(added.weight)
    unet.time_embedding.cond_proj = added.requires_grad_(first.weight.requires_grad)
    unet.register_to_config(**{OPTION: size})
