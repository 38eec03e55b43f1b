"""diffusers' own pipelines with a delta in them: text, ControlNet, LoRA, image to image, inpainting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

from perflow import artifacts, lora
from perflow.integrations.delta import apply_delta, check_matrices, read_delta, student_scheduler
from perflow.models import TASKS

_DELTA, _STYLE = "delta", "adapter"


def pipeline(
    folder: Path,
    family: str,
    task: str,
    device: str = "cpu",
    delta: Path | None = None,
    rank: int | None = None,
    adapter: tuple[str, Path] | None = None,
) -> Any:
    """The pipeline of a task on the base in ``folder``, with a delta of it or of a base it descends from.

    ``rank`` loads the delta as a LoRA of that rank, None adds all of it. ``adapter`` is a kind (lora, controlnet) and
    its folder. The pipeline's scheduler is the student's, or without a delta the base's.
    """
    kind, path = adapter or ("", Path())
    parts: dict[str, Any] = {}
    if kind == "controlnet":
        parts["controlnet"] = diffusers.ControlNetModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
    chosen = getattr(diffusers, TASKS[family]["controlnet" if kind == "controlnet" else task])
    if family == "stable_diffusion":
        parts["safety_checker"] = None
    diffusers.utils.logging.disable_progress_bar()  # of loading parts: a stage has a progress line of its own
    pipe = chosen.from_pretrained(folder, local_files_only=True, use_safetensors=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    loras = []
    if delta is not None and rank is None:
        apply_delta(pipe, delta, other_base=True)
    elif delta is not None:
        apply_low_rank(pipe, delta, rank)
        loras.append(_DELTA)
    if kind == "lora":  # after the delta: a LoRA renames the weights it is put into
        weights = artifacts.read_tensors(path / "pytorch_lora_weights.safetensors")[0]
        pipe.load_lora_weights(weights, adapter_name=_STYLE)
        loras.append(_STYLE)
    if loras:
        pipe.set_adapters(loras)
    return pipe.to(device)


def apply_low_rank(pipe: Any, delta: Path, rank: int) -> None:
    """Load a delta into ``pipe`` as a LoRA of ``rank``, and give it the student's scheduler."""
    name, (change, header) = read_delta(delta)
    check_matrices(name, header)
    scheduler = student_scheduler(name, header, pipe.scheduler)
    pairs, _ = lora.cut(change, rank)
    pipe.load_lora_weights(lora.diffusers_names(pairs), adapter_name=_DELTA)
    pipe.scheduler = scheduler


def scheduler(chosen: Mapping[str, Any], base_config: Mapping[str, Any]) -> Any:
    """``chosen``, a diffusers ``class`` and options, on the base's noise schedule."""
    options = {name: value for name, value in chosen.items() if name != "class"}
    return getattr(diffusers, chosen["class"]).from_config(base_config, **options)


@torch.inference_mode()
def draw(
    pipe: Any,
    prompts: Sequence[str],
    negatives: Sequence[str],
    steps: int,
    guidance: float,
    generators: Sequence[torch.Generator],
    **shown: Any,
) -> Tensor:
    """Latents [N, ...] of N prompts, guided away from N others; every random number of item i comes from generator i.

    Where no prompt has a negative one the pipeline is given none: SDXL's then leads away from its own null condition.
    ``shown`` is what the pipeline takes besides: ``image`` and ``mask_image`` [N, C, H, W] in [0, 1], ``strength``.
    """
    away = list(negatives) if any(negatives) else None
    return pipe(
        list(prompts), negative_prompt=away, num_inference_steps=steps, guidance_scale=guidance,
        generator=list(generators), output_type="latent", **shown,
    ).images  # fmt: skip
