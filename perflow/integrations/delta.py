"""Turn a pipeline into a student: add a delta to its UNet and give it the student's scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from perflow.artifacts import read_tensors, tensor_hash
from perflow.errors import PerflowError
from perflow.integrations.scheduler import PeRFlowScheduler

T = TypeVar("T")
Delta = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors and header, as ``artifacts.read_tensors`` returns them."""

_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def apply_delta(pipe_or_unet: T, path_or_delta: str | Path | Delta, other_base: bool = False) -> T:
    """Add a student's delta to a UNet, in place, and return what was given.

    ``pipe_or_unet`` is a diffusers pipeline with a UNet, or the UNet itself; ``path_or_delta`` is a
    ``delta.safetensors`` or what ``read_tensors`` returned for one. Sums are fp32, cast back to the
    weights' type. A pipeline also gets the ``PeRFlowScheduler`` that the header describes, on the noise
    schedule of its present scheduler; a student without windows leaves the scheduler alone.

    PerflowError, with nothing changed: a tensor is missing, unknown or of another shape (always); the UNet
    is not the base the delta was made for, by a hash of its tensors (unless ``other_base``). The hash
    sees the type too: load the base as it was taught, apply the delta, then cast.
    """
    if isinstance(path_or_delta, str | Path):
        name, (delta, header) = str(path_or_delta), read_tensors(path_or_delta)
    else:
        name, (delta, header) = "delta", path_or_delta
    unet = getattr(pipe_or_unet, "unet", pipe_or_unet)
    if not isinstance(unet, nn.Module):
        raise PerflowError(
            f"{name}: needs a pipeline with a UNet or a UNet, not {type(pipe_or_unet).__name__}"
        )
    base, edges = _required(name, header, "base"), _required(name, header, "edges")
    weights = unet.state_dict()
    _refuse_other_tensors(name, delta, weights)
    if not other_base:
        _refuse_other_base(name, base, weights)
    scheduler = None
    if unet is not pipe_or_unet and edges is not None:
        scheduler = _scheduler(name, header, pipe_or_unet.scheduler)

    for key, weight in weights.items():
        change = delta[key].to(weight.device, torch.float32)
        weight.copy_(weight.to(torch.float32) + change)
    if scheduler is not None:
        pipe_or_unet.scheduler = scheduler
    return pipe_or_unet


def _refuse_other_tensors(name: str, delta: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for problem, keys in (
        ("lacks", sorted(weights.keys() - delta.keys())),
        ("has unknown", sorted(delta.keys() - weights.keys())),
    ):
        if keys:
            raise PerflowError(
                f"{name}: {problem} {len(keys)} tensor(s), first '{keys[0]}'; it is another model's"
            )
    for key, weight in weights.items():
        if delta[key].shape != weight.shape:
            raise PerflowError(
                f"{name}: '{key}' is {list(delta[key].shape)}, the UNet has {list(weight.shape)}"
            )


def _refuse_other_base(name: str, base: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    if tensor_hash(weights) == base.get("sha256"):
        return
    types = ", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}))
    raise PerflowError(
        f"{name}: made for {base.get('name')} at {base.get('revision')}, and this UNet ({types}) differs; "
        "load that base in the type it was taught in and cast afterwards, or pass other_base=True"
    )


def _required(name: str, header: Mapping[str, Any], key: str) -> Any:
    if key not in header:
        raise PerflowError(f"{name}: its header has no '{key}', so it is not a perflow delta")
    return header[key]


def _scheduler(name: str, header: Mapping[str, Any], base: SchedulerMixin) -> PeRFlowScheduler:
    missing = [key for key in _SCHEDULE if key not in base.config]
    if missing:
        raise PerflowError(
            f"{name}: the pipeline's {type(base).__name__} has no {missing[0]}; keep the base's own scheduler"
        )
    # Spelt out, not from_config: that replaces what the other class had by default with our defaults.
    return PeRFlowScheduler(
        **{key: base.config[key] for key in _SCHEDULE},
        rescale_betas_zero_snr=base.config.get("rescale_betas_zero_snr", False),
        prediction_type=_required(name, header, "prediction"),
        windows=list(_required(name, header, "edges")),
        path=_required(name, header, "path"),
        base_prediction=_required(name, header, "base_prediction"),
        timestep_offset=_required(name, header, "timestep_offset"),
    )
