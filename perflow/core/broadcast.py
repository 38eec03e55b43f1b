"""One number an item, beside tensors of items."""

from __future__ import annotations

import torch
from torch import Tensor


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """The type coefficients and latents are combined in: fp32, or fp64 if a tensor is fp64.

    In bf16 the smallest 1 - ᾱ of the Stable Diffusion schedule rounds to 0 and a noise target errs by 4 %.
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def per_item(value: float | Tensor, like: Tensor) -> Tensor:
    """Shape a coefficient for ``like`` [B, ...]: a scalar stays one, [B] becomes [B, 1, …, 1] on its device.

    A scalar stays on the CPU, where torch reads it without waiting for the device.
    """
    value = torch.as_tensor(value, dtype=working_dtype(like))
    if value.ndim == 0:
        return value
    return value.to(like.device, non_blocking=True).reshape(-1, *[1] * (like.ndim - 1))
