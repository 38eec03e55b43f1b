"""Any pipeline of diffusers that is told a prompt: loaded from a folder, and drawn with as it is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.models.folder import INDEX


def load(folder: Path, device: str = "cpu") -> Any:
    """The pipeline in ``folder``, of whatever class of diffusers'.

    Weights are read from safetensors, and no code that comes with them runs. PerflowError for one that cannot be
    loaded, or is told no prompt.
    """
    name = artifacts.read_object(folder / INDEX, "a pipeline's index", _class_name=str)["_class_name"]
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise PerflowError(f"{folder}: its pipeline '{name}' is none of diffusers {diffusers.__version__}")
    if "prompt" not in inspect.signature(kind.__call__).parameters:
        raise PerflowError(f"{folder}: {name} is told no prompt; draw its images yourself, and measure their folder")
    unchecked = {"safety_checker": None} if "safety_checker" in inspect.signature(kind.__init__).parameters else {}
    try:
        pipe = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **unchecked)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise PerflowError(f"{folder}: cannot be loaded as {name} ({str(error).strip().splitlines()[0]})") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@torch.inference_mode()
def draw(
    pipe: Any,
    prompts: Sequence[str],
    negatives: Sequence[str],
    steps: int | None,
    guidance: float | None,
    generators: Sequence[torch.Generator],
) -> np.ndarray:
    """Images uint8 [N, H, W, 3] of N prompts, guided away from N others where any is not empty.

    ``steps`` and ``guidance`` are the pipeline's own where None; every random number of item i is of generator i.
    PerflowError if the pipeline takes something else, or makes something else.
    """
    away = list(negatives) if any(negatives) else None
    said = {"num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": away}
    chosen = {name: value for name, value in said.items() if value is not None}
    try:
        found = pipe(list(prompts), generator=list(generators), output_type="np", **chosen).images
    except (
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # it wants a picture too, say
        given = ", ".join(["a prompt", *chosen])
        raise PerflowError(
            f"{type(pipe).__name__} draws no images of {given} alone ({str(error).strip().splitlines()[0]});"
            " draw them yourself, and measure their folder"
        ) from None
    return (np.asarray(found) * 255).round().astype(np.uint8)
