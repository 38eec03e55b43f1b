"""A pipeline as one safetensors file with the tensor names of the original Stable Diffusion 1.

The layout of CompVis' first release, which ComfyUI and AUTOMATIC1111 read, and diffusers' ``from_single_file``:
``model.diffusion_model`` (UNet), ``first_stage_model`` (autoencoder), ``cond_stage_model`` (text model).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.models import folder as pipeline_folder

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_NETWORK = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",  # of files older than diffusers 0.17
}  # fmt: skip


def tensors(base: Path, index: Mapping[str, Any], network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a pipeline whose UNet is ``network``, under their original names, in their stored types.

    PerflowError for a pipeline of another kind: Stable Diffusion 2 and XL name their text models otherwise.
    """
    kind = index["_class_name"], index.get("text_encoder", ["", ""])[1]
    config = pipeline_folder.place(base / pipeline_folder.NETWORK) / "config.json"
    linear = artifacts.read_json(config).get("use_linear_projection", False)
    if kind != ("StableDiffusionPipeline", "CLIPTextModel") or linear:
        raise PerflowError(f"{base}: single files are written for Stable Diffusion 1 pipelines only; give a folder")
    autoencoder = pipeline_folder.tensors(base / "vae")
    text = pipeline_folder.tensors(base / "text_encoder")
    return {
        **_renamed("model.diffusion_model.", network, network_name),
        **_renamed("first_stage_model.", _convolved(autoencoder), autoencoder_name),
        **_renamed("cond_stage_model.transformer.text_model.", text, lambda name, _: name.removeprefix("text_model.")),
    }


def network_name(name: str, names: Mapping[str, Any]) -> str:
    """A UNet tensor's original name; ``names`` are all of the UNet's, from which its layout is read."""
    layers = _count(r"down_blocks\.0\.resnets\.(\d+)\.", names)

    def place(down: str, block: str, layer: str) -> str:
        number = (layers + 1) * int(block) + int(layer)
        return f"input_blocks.{number + 1}" if down == "down" else f"output_blocks.{number}"

    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.(\w+)\.(\w+)", name):
        return f"{place(*found.groups()[:3])}.0.{_RESNET[found[4]]}.{found[5]}"
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)", name):
        return f"{place(*found.groups()[:3])}.1.{found[4]}"
    if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(\w+)", name):
        return f"input_blocks.{(layers + 1) * (int(found[1]) + 1)}.0.op.{found[2]}"
    if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(\w+)", name):
        attends = any(other.startswith(f"up_blocks.{found[1]}.attentions.") for other in names)
        return f"{place('up', found[1], str(layers))}.{2 if attends else 1}.conv.{found[2]}"
    if found := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(\w+)\.(\w+)", name):
        return f"middle_block.{2 * int(found[1])}.{_RESNET[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", name):
        return f"middle_block.1.{found[1]}"
    stem, _, kind = name.rpartition(".")
    if stem in _NETWORK:
        return f"{_NETWORK[stem]}.{kind}"
    raise PerflowError(f"unet: '{name}' has no name in Stable Diffusion 1; give a folder as --out")


def autoencoder_name(name: str, names: Mapping[str, Any]) -> str:
    """An autoencoder tensor's original name; ``names`` are all of the autoencoder's."""
    last = _count(r"decoder\.up_blocks\.(\d+)\.", names) - 1
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda m: f".up.{last - int(m[1])}.", name)
    name = re.sub(r"\.down_blocks\.(\d+)\.", r".down.\1.", name)
    name = re.sub(r"\.resnets\.(\d+)\.", r".block.\1.", name)
    name = re.sub(r"\.(down|up)samplers\.0\.", r".\1sample.", name)
    if found := re.fullmatch(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(\w+)", name):
        name = f"{found[1]}.mid.attn_1.{_ATTENTION[found[2]]}.{found[3]}"
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _convolved(autoencoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Attention as the original has it: 1x1 convolutions [C, C, 1, 1] instead of matrices [C, C]."""
    return {
        name: value[..., None, None] if ".attentions." in name and value.ndim == 2 else value
        for name, value in autoencoder.items()
    }


def _count(pattern: str, names: Mapping[str, Any]) -> int:
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=0)


def _renamed(
    prefix: str, values: Mapping[str, Tensor], rename: Callable[[str, Mapping[str, Any]], str]
) -> dict[str, Tensor]:
    renamed = {prefix + rename(name, values): value for name, value in values.items()}
    if len(renamed) < len(values):
        raise PerflowError(f"{prefix.split('.')[0]}: two tensors get one name in Stable Diffusion 1; give a folder")
    return renamed
