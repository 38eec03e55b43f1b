"""diffusers' schedulers: the noise schedule that a checkpoint's own one names, and sampling with any."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from perflow.core.schedule import Schedule
from perflow.errors import PerflowError

BETAS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"
)  # fmt: skip
"""What a scheduler's configuration says of the noise schedule; the last one is False where it is not said."""


def whole(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A checkpoint's scheduler configuration with what its own class means by leaving a value out.

    PerflowError naming ``where`` for a scheduler that diffusers lacks, or one of another kind of process (flow
    matching, EDM), which has no betas.
    """
    import diffusers

    name = config.get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if kind is None or not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise PerflowError(f"{where}: its scheduler '{name}' is none of diffusers {diffusers.__version__}")
    try:
        found = {"prediction_type": "epsilon", **kind.from_config(config).config}
    except (TypeError, ValueError, NotImplementedError) as error:
        raise PerflowError(f"{where}: its scheduler '{name}' cannot be made ({str(error).splitlines()[0]})") from None
    if absent := [key for key in BETAS[:-1] if key not in found]:
        raise PerflowError(
            f"{where}: its scheduler '{name}' has no {absent[0]}; a base is one of the diffusions that betas describe"
        )
    return found


def betas(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a whole configuration that is the noise schedule, as ``DDPMScheduler`` takes it."""
    return {BETAS[-1]: False} | {key: config[key] for key in BETAS if key in config}


def schedule(config: Mapping[str, Any]) -> Schedule:
    """The noise schedule of a whole configuration, by diffusers' own tables."""
    from diffusers import DDPMScheduler

    return Schedule(DDPMScheduler(**betas(config)).alphas_cumprod.double())


def draw(
    chosen: dict[str, Any],
    steps: int,
    config: dict[str, Any],
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    generators: Sequence[torch.Generator],
    times: Sequence[float] | None = None,
) -> Tensor:
    """From noise [B, ...] to data in ``steps`` steps of a scheduler.

    ``chosen`` holds its diffusers ``class`` and options; ``config`` is the base's scheduler configuration (betas,
    prediction type); ``network(x, timestep [B])`` returns the raw, guided output. ``generators``, one an item,
    are what a scheduler that adds noise draws it from. ``times`` [steps], falling in (0, 1], are where the steps
    begin; None: where the scheduler's own options put them.
    """
    import diffusers

    options = {name: value for name, value in chosen.items() if name != "class"}
    if times is not None and times[0] < 1:  # noise then has the deviation of its time, as diffusers has it there
        options["timestep_spacing"] = "leading"
    scheduler = getattr(diffusers, chosen["class"]).from_config(config, **options)
    scheduler.set_timesteps(steps)
    if times is not None:
        _place(scheduler, times)
    x = noise * scheduler.init_noise_sigma
    stochastic = {"generator": list(generators)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        output = network(scaled, torch.full((len(x),), float(t), device=x.device))
        x = scheduler.step(output, t, x, **stochastic, return_dict=False)[0]
    return x


def _place(scheduler: Any, times: Sequence[float]) -> None:
    """Let the steps of a scheduler that goes by ``sigmas`` (sigma/alpha) begin at ``times``; it ends where it did.

    One of two calls a step (Heun) lists every node but the first twice.
    """
    schedule = Schedule(scheduler.alphas_cumprod.double())
    t = torch.tensor(times, dtype=torch.float64)
    nodes, sigmas = schedule.index(t), torch.exp(-schedule.log_snr(t))
    twice = len(scheduler.timesteps) > len(times)
    nodes, sigmas = (torch.cat([part[:1], part[1:].repeat_interleave(1 + twice)]) for part in (nodes, sigmas))
    scheduler.timesteps = nodes.float()
    scheduler.sigmas = torch.cat([sigmas.float(), scheduler.sigmas[-1:].float()])
