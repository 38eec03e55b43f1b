"""Sampling with diffusers' schedulers, behind one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def draw(
    chosen: dict[str, Any],
    steps: int,
    config: dict[str, Any],
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """From noise [B, ...] to data in ``steps`` steps of a scheduler.

    ``chosen`` holds its diffusers ``class`` and options; ``config`` is the base's scheduler configuration (betas,
    prediction type); ``network(x, timestep [B])`` returns the raw, guided output. ``generators``, one an item,
    are what a scheduler that adds noise draws it from.
    """
    import diffusers

    options = {name: value for name, value in chosen.items() if name != "class"}
    scheduler = getattr(diffusers, chosen["class"]).from_config(config, **options)
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    stochastic = {"generator": list(generators)} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        output = network(scaled, torch.full((len(x),), float(t), device=x.device))
        x = scheduler.step(output, t, x, **stochastic, return_dict=False)[0]
    return x
