"""A pipeline as one safetensors file with the tensor names of the original release.

The layout of CompVis' Stable Diffusion 1 (``cond_stage_model`` is the text model) and of Stability's XL
(``conditioner.embedders``), which ComfyUI and AUTOMATIC1111 read, and diffusers' ``from_single_file``:
``model.diffusion_model`` is the UNet, ``first_stage_model`` the autoencoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from perflow import artifacts, original
from perflow.errors import PerflowError
from perflow.models import folder as pipeline_folder

_Text = tuple[str, str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]
_TEXTS: dict[str, dict[str, _Text]] = {
    "StableDiffusionPipeline": {
        "text_encoder": ("CLIPTextModel", "cond_stage_model.transformer.", original.clip),
    },
    "StableDiffusionXLPipeline": {
        "text_encoder": ("CLIPTextModel", "conditioner.embedders.0.transformer.", original.clip),
        "text_encoder_2": ("CLIPTextModelWithProjection", "conditioner.embedders.1.model.", original.open_clip),
    },
}
"""Pipeline -> its text models: their class, where they lie in the file, and under which names."""


def tensors(base: Path, index: Mapping[str, Any], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a pipeline whose UNet is ``network``, under their original names, in their stored types.

    PerflowError for a pipeline of another kind, such as Stable Diffusion 2, whose text model is OpenCLIP's without
    its last layer.
    """
    texts = _texts(base, index, network)
    found = {f"model.diffusion_model.{name}": value for name, value in original.network(network).items()}
    autoencoder = original.autoencoder(pipeline_folder.tensors(base / "vae"))
    found |= {f"first_stage_model.{name}": value for name, value in autoencoder.items()}
    for part, (_, prefix, named) in texts.items():
        text = named(pipeline_folder.tensors(base / part))
        found |= {prefix + name: value for name, value in text.items()}
    return found


def _texts(base: Path, index: Mapping[str, Any], network: Mapping[str, Tensor]) -> dict[str, _Text]:
    texts = _TEXTS.get(index["_class_name"], {})
    config = artifacts.read_json(pipeline_folder.place(base / pipeline_folder.NETWORK) / "config.json")
    sizes = original.told_sizes(network)
    second = not sizes and config.get("use_linear_projection", False)
    kinds = {part: index.get(part, ["", ""])[1] for part in texts}
    if not texts or second or sizes != (len(texts) == 2) or kinds != {part: text[0] for part, text in texts.items()}:
        raise PerflowError(f"{base}: single files are written for Stable Diffusion 1 and XL pipelines; give a folder")
    return texts
