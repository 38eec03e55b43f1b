"""Turn a pipeline into a student: add a delta to its UNet and give it the student's scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import diffusers
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor, nn

from perflow import artifacts, delta
from perflow.errors import PerflowError
from perflow.integrations.scheduler import PeRFlowScheduler
from perflow.models import PREDICTION_TYPES, SCHEDULERS, embedding, prediction_type
from perflow.models.schedulers import BETAS, betas

T = TypeVar("T")
Delta = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""Tensors and header, as ``perflow.artifacts.read_tensors`` returns them."""


def apply_delta(pipe_or_unet: T, path_or_delta: str | Path | Delta, other_base: bool = False, scale: float = 1.0) -> T:
    """Add a student's delta, times ``scale``, to a UNet, in place, and return what was given.

    ``pipe_or_unet`` is a diffusers pipeline with a UNet, or the UNet itself; ``path_or_delta`` is a
    ``delta.safetensors`` or what ``artifacts.read_tensors`` returned for one. Sums are fp32, cast back to the
    weights' type. A pipeline also gets the scheduler that the header describes, on the noise schedule of its
    present one: a ``PeRFlowScheduler``, or for a student without windows the diffusers scheduler it is sampled with.
    A UNet that is to be told its guidance gets the matrix for it, and pipelines then tell it their ``guidance_scale``.

    PerflowError, with nothing changed: a tensor is missing, unknown or of another shape, or the pipeline's
    network predicts something else than the delta's base (always); the UNet is not the base the delta was made
    for, by a hash of its values (unless ``other_base``). A base that was rounded has other values: load it
    as it was taught, apply the delta, then cast.
    """
    name, (change, header) = read_delta(path_or_delta)
    unet = getattr(pipe_or_unet, "unet", pipe_or_unet)
    if not isinstance(unet, nn.Module):
        raise PerflowError(f"{name}: needs a pipeline with a UNet or a UNet, not {type(pipe_or_unet).__name__}")
    weights = unet.state_dict()
    change = {key: value.to(weights[key].device) if key in weights else value for key, value in change.items()}
    student = delta.add(weights, scaled(change, scale), header, other_base, name)
    if unet is not pipe_or_unet:
        check_prediction(name, header, pipe_or_unet.scheduler)
        scheduler = student_scheduler(name, header, pipe_or_unet.scheduler)

    if (told := header.get("told")) and delta.ADDED not in weights:
        embedding.insert(unet, told["size"])
        weights = unet.state_dict()
    for key, weight in weights.items():
        weight.copy_(student[key])
    if unet is not pipe_or_unet:
        pipe_or_unet.scheduler = scheduler
    return pipe_or_unet


def read_delta(path_or_delta: str | Path | Delta) -> tuple[str, Delta]:
    """What messages call a delta, and the delta."""
    if isinstance(path_or_delta, str | Path):
        return str(path_or_delta), artifacts.read_tensors(path_or_delta)
    return "delta", path_or_delta


def scaled(change: Mapping[str, Tensor], scale: float) -> Mapping[str, Tensor]:
    """``scale`` ΔW in fp32; ΔW itself for a scale of 1."""
    return change if scale == 1 else {key: scale * value.float() for key, value in change.items()}


def check_matrices(name: str, header: Mapping[str, Any]) -> None:
    """PerflowError if the delta's network is told its guidance: a LoRA has no place for how."""
    if header.get("told"):
        raise PerflowError(f"{name}: its network is told its guidance, which no LoRA holds; add the whole delta")


def check_prediction(name: str, header: Mapping[str, Any], scheduler: SchedulerMixin) -> None:
    """PerflowError if the pipeline's network means another thing by its output than the delta's base does."""
    config = scheduler.config
    found = config.get("base_prediction") or PREDICTION_TYPES.get(config.get("prediction_type", "epsilon"))
    wanted = header.get("base_prediction", found)
    if found != wanted:
        raise PerflowError(f"{name}: made for a base that predicts {wanted}; the network of this pipeline: {found}")


def student_scheduler(name: str, header: Mapping[str, Any], base: SchedulerMixin) -> SchedulerMixin:
    """The scheduler a header describes, on the noise schedule of ``base``; ``base`` itself where it describes none."""
    if header.get("edges") is None:
        chosen = dict((header.get("trial") or {}).get("scheduler") or {})
        return getattr(diffusers, chosen.pop("class")).from_config(base.config, **chosen) if chosen else base
    described = ("prediction", "path", "base_prediction", "timestep_offset")
    unsaid = [key for key in described if key not in header]
    if unsaid:
        raise PerflowError(f"{name}: its header has windows but no '{unsaid[0]}'; export the student again")
    return PeRFlowScheduler(
        **_schedule(name, base),
        prediction_type=header["prediction"],
        windows=list(header["edges"]),
        path=header["path"],
        base_prediction=header["base_prediction"],
        timestep_offset=header["timestep_offset"],
    )


def plain_scheduler(name: str, header: Mapping[str, Any], base: SchedulerMixin) -> SchedulerMixin:
    """As ``student_scheduler``, but diffusers' own where that samples the windows: DDIM with trailing spacing.

    It does so on the diffusion path, for ddim_eps at the base's timesteps.
    """
    said = (header.get("path"), header.get("prediction"), header.get("timestep_offset"))
    if header.get("edges") is None or said != ("diffusion", "ddim_eps", -1):
        return student_scheduler(name, header, base)
    return DDIMScheduler(
        **_schedule(name, base),
        prediction_type=prediction_type(header["base_prediction"]),
        steps_offset=1,  # pipelines insist on it; trailing spacing does not read it
        **SCHEDULERS["ddim"].options,
    )


def _schedule(name: str, base: SchedulerMixin) -> dict[str, Any]:
    # Spelt out, not from_config: that replaces what the other class had by default with our defaults.
    missing = [key for key in BETAS[:-1] if key not in base.config]
    if missing:
        raise PerflowError(
            f"{name}: the pipeline's {type(base).__name__} has no {missing[0]}; keep the base's own scheduler"
        )
    return betas(base.config)
