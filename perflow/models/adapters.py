"""What is trained beside a network that stays as it is: a LoRA of its attention, or a ControlNet."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from perflow.errors import PerflowError

_ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
_CONDITION_CHANNELS = (16, 32, 96, 256)
"""diffusers' widths for a condition that is brought down eight times; fewer levels take the first ones."""


def with_lora(unet: nn.Module, rank: int, seed: int) -> nn.Module:
    """A copy of ``unet`` whose attention has an untrained LoRA of ``rank``, which alone is trainable."""
    from peft import LoraConfig

    adapted = copy.deepcopy(unet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_ATTENTION)
        )
    return adapted


def lora_tensors(adapted: nn.Module) -> dict[str, Tensor]:
    """The LoRA of an adapted network under the names that diffusers' ``load_lora_weights`` reads."""
    from peft import get_peft_model_state_dict

    return {f"unet.{name}": value.cpu().contiguous() for name, value in get_peft_model_state_dict(adapted).items()}


def new_controlnet(unet: nn.Module, resolution: int, seed: int) -> nn.Module:
    """An untrained ControlNet of ``unet``, shown pictures [B, 3, resolution, resolution] in [0, 1].

    PerflowError where its latents are smaller than an eighth of the pictures.
    """
    from diffusers import ControlNetModel

    size = unet.config.sample_size
    levels = round(math.log2(resolution / (size if isinstance(size, int) else size[0]))) + 1
    if levels > len(_CONDITION_CHANNELS):
        raise PerflowError(f"controlnet: latents of {size} for pictures of {resolution} pixels; at most 8 times fewer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=_CONDITION_CHANNELS[:levels])
    return made.requires_grad_(True)
