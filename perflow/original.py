"""The names that tensors of a pipeline have in the original releases, from which other programs know them.

CompVis' Stable Diffusion 1 and Stability's 2 and XL name UNet and autoencoder alike. The text model of 2, and of XL the
second, is OpenCLIP's, which holds queries, keys and values in one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from perflow.errors import PerflowError

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_NETWORK = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "query": "q", "key": "k", "value": "v", "proj_attn": "proj_out",  # of files older than diffusers 0.17
}  # fmt: skip
_OPEN_CLIP = {
    "embeddings.token_embedding.": "token_embedding.", "final_layer_norm.": "ln_final.",
    "embeddings.position_embedding.weight": "positional_embedding", "encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.", ".layer_norm2.": ".ln_2.", ".self_attn.": ".attn.",
    ".fc1.": ".c_fc.", ".fc2.": ".c_proj.",
}  # fmt: skip


def told_sizes(names: Collection[str]) -> bool:
    """Whether these are a UNet's names that is told sizes besides a text: SDXL's."""
    return any(name.startswith("add_embedding.") for name in names)


def network_name(name: str, names: Collection[str]) -> str:
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
    raise PerflowError(f"unet: '{name}' has no name in the original Stable Diffusion")


def network(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A UNet under its original names."""
    return _renamed("unet", {name: network_name(name, values) for name in values}, values)


def autoencoder_name(name: str, names: Collection[str]) -> str:
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


def autoencoder(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder under its original names; its attention is 1x1 convolutions [C, C, 1, 1], not matrices [C, C]."""
    shaped = {
        name: value[..., None, None] if ".attentions." in name and value.ndim == 2 else value
        for name, value in values.items()
    }
    return _renamed("vae", {name: autoencoder_name(name, values) for name in values}, shaped)


def clip(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text model of Stable Diffusion 1, and XL's first; transformers' own names, below ``text_model``."""
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in values.items()}


def open_clip(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text model of Stable Diffusion 2, and XL's second: OpenCLIP's names, one matrix of queries, keys and values.

    A projection is transposed; the positions' numbers, which are no weights, are left out.
    """
    found: dict[str, Tensor] = {}
    for key, value in values.items():
        if key.endswith(".position_ids"):
            continue
        name = key.removeprefix("text_model.")
        for ours, theirs in _OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if name == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
        elif ".q_proj." in name:
            three = [values[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            found[name.replace(".q_proj.", ".in_proj_")] = torch.cat(three)
        elif ".k_proj." not in name and ".v_proj." not in name:
            found[name] = value
    return found


def _count(pattern: str, names: Collection[str]) -> int:
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=0)


def _renamed(part: str, names: Mapping[str, str], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {names[name]: value for name, value in values.items()}
    if len(renamed) < len(values):
        raise PerflowError(f"{part}: two tensors get one name in the original Stable Diffusion")
    return renamed
