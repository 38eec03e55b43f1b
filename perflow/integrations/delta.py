"""Turn a pipeline into a student: add a delta to its UNet and give it the student's scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffusers import SchedulerMixin
from torch import Tensor, nn

from perflow import artifacts, delta
from perflow.errors import PerflowError
from perflow.integrations.scheduler import PeRFlowScheduler

T = TypeVar("T")
Delta = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors and header, as ``perflow.artifacts.read_tensors`` returns them."""

_SCHEDULE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")


def apply_delta(pipe_or_unet: T, path_or_delta: str | Path | Delta, other_base: bool = False) -> T:
    """Add a student's delta to a UNet, in place, and return what was given.

    ``pipe_or_unet`` is a diffusers pipeline with a UNet, or the UNet itself; ``path_or_delta`` is a
    ``delta.safetensors`` or what ``artifacts.read_tensors`` returned for one. Sums are fp32, cast back to the
    weights' type. A pipeline also gets the ``PeRFlowScheduler`` that the header describes, on the noise
    schedule of its present scheduler; a student without windows leaves the scheduler alone.

    PerflowError, with nothing changed: a tensor is missing, unknown or of another shape (always); the UNet
    is not the base the delta was made for, by a hash of its tensors (unless ``other_base``). The hash
    sees the type too: load the base as it was taught, apply the delta, then cast.
    """
    if isinstance(path_or_delta, str | Path):
        name, (change, header) = str(path_or_delta), artifacts.read_tensors(path_or_delta)
    else:
        name, (change, header) = "delta", path_or_delta
    unet = getattr(pipe_or_unet, "unet", pipe_or_unet)
    if not isinstance(unet, nn.Module):
        raise PerflowError(f"{name}: needs a pipeline with a UNet or a UNet, not {type(pipe_or_unet).__name__}")
    weights = unet.state_dict()
    change = {key: value.to(weights[key].device) if key in weights else value for key, value in change.items()}
    student = delta.add(weights, change, header, other_base, name)
    scheduler = None
    if unet is not pipe_or_unet and header.get("edges") is not None:
        scheduler = _scheduler(name, header, pipe_or_unet.scheduler)

    for key, weight in weights.items():
        weight.copy_(student[key])
    if scheduler is not None:
        pipe_or_unet.scheduler = scheduler
    return pipe_or_unet


def _scheduler(name: str, header: Mapping[str, Any], base: SchedulerMixin) -> PeRFlowScheduler:
    missing = [key for key in _SCHEDULE if key not in base.config]
    if missing:
        raise PerflowError(
            f"{name}: the pipeline's {type(base).__name__} has no {missing[0]}; keep the base's own scheduler"
        )
    described = ("prediction", "path", "base_prediction", "timestep_offset")
    unsaid = [key for key in described if key not in header]
    if unsaid:
        raise PerflowError(f"{name}: its header has windows but no '{unsaid[0]}'; export the student again")
    # Spelt out, not from_config: that replaces what the other class had by default with our defaults.
    return PeRFlowScheduler(
        **{key: base.config[key] for key in _SCHEDULE},
        rescale_betas_zero_snr=base.config.get("rescale_betas_zero_snr", False),
        prediction_type=header["prediction"],
        windows=list(header["edges"]),
        path=header["path"],
        base_prediction=header["base_prediction"],
        timestep_offset=header["timestep_offset"],
    )
