"""A diffusers pipeline folder as it lies on the disk: its parts, their files, their tensors as they are stored."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from perflow import artifacts
from perflow.errors import PerflowError

INDEX = "model_index.json"
NETWORK = "unet"
"""The part a student changes."""
NETWORK_FILE = "diffusion_pytorch_model.safetensors"
_STEMS = ("diffusion_pytorch_model", "model")
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb")


def index(folder: Path) -> dict[str, Any]:
    """``model_index.json``; PerflowError for a folder that holds no pipeline with a UNet."""
    if not (folder / INDEX).is_file():
        raise PerflowError(f"{folder}: not a diffusers pipeline folder (it has no {INDEX})")
    content = artifacts.read_object(folder / INDEX, "a pipeline's index")
    if odd := [name for name in parts(content) if Path(name).name != name]:
        raise PerflowError(f"{folder / INDEX}: '{odd[0]}' is no part's name")
    if NETWORK not in parts(content):
        raise PerflowError(f"{folder}: its pipeline has no {NETWORK}; it has {', '.join(parts(content))}")
    return content


def parts(content: dict[str, Any]) -> dict[str, list[str]]:
    """Part -> [library, class] of an index, without the parts that are left empty."""
    return {
        name: value
        for name, value in content.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)
    }


def chosen(part: str | Path, names: Iterable[str]) -> dict[str, str]:
    """Which of a part's files make it: its file name -> the name it gets.

    Everything that is no weights; of the weights the safetensors, whole or in shards, or a variant where it is the
    only one, which then gets the plain name. PerflowError if that leaves several to choose from.
    """
    names = sorted(names)
    there = [name for name in names if name.endswith(".safetensors")]
    found = next((kept for stem in _STEMS if (kept := _of_stem(stem, there))), None) or there
    whole = len(found) == 1
    if not whole and not all(re.search(r"-\d{5}-of-\d{5}\.safetensors$", name) for name in found):
        raise PerflowError(f"{part}: which weights are meant? There are {', '.join(found)}; name one '{NETWORK_FILE}'")
    others = {name: name for name in names if not name.endswith(_WEIGHTS)}
    return others | {name: f"{name.partition('.')[0]}.safetensors" if whole else name for name in found}


def _of_stem(stem: str, names: list[str]) -> list[str]:
    if f"{stem}.safetensors" in names:
        return [f"{stem}.safetensors"]
    return [name for name in names if re.fullmatch(rf"{stem}-\d{{5}}-of-\d{{5}}\.safetensors", name)]


def inside(part: str, names: Iterable[str]) -> dict[str, str]:
    """Which of a pipeline's files make a part: its name below the pipeline -> the name it gets in the part's folder.

    A pipeline of few parts may be flat (google/ddpm-cifar10-32): a part without a folder then lies beside the index,
    as diffusers reads it, and is its configuration and, but for a scheduler, the weights.
    """
    names = list(names)
    own = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
    if own:
        return {f"{part}/{name}": new for name, new in chosen(part, own).items()}
    config = "scheduler_config.json" if part == "scheduler" else "config.json"
    if config not in names:
        raise PerflowError(f"{part}: no such folder, though {INDEX} names it")
    flat = [name for name in names if "/" not in name and name.endswith(_WEIGHTS)] if part != "scheduler" else []
    return chosen(part, [config, *flat])


def files(part: Path) -> dict[Path, str]:
    """The files that make a part on the disk -> the names they get; ``part`` is where its folder is, or would be."""
    pipeline = part.parent
    if part.is_dir():
        return {part / name: new for name, new in chosen(part, (path.name for path in part.iterdir())).items()}
    try:
        there = [path.name for path in pipeline.iterdir()] if pipeline.is_dir() else []
        return {pipeline / name: new for name, new in inside(part.name, there).items()}
    except PerflowError:
        raise PerflowError(f"{part}: no such folder, though {INDEX} names it") from None


def place(part: Path) -> Path:
    """The folder that a part's configuration lies in: its own, or the pipeline's where that is flat."""
    return part if part.is_dir() else part.parent


def family(content: dict[str, Any]) -> str | None:
    """The family of a pipeline by its parts; None for one that no family reads."""
    found = parts(content)
    if found[NETWORK][1] == "UNet2DModel":
        return "pixel"
    if "text_encoder_2" in found:
        return "sdxl" if "text_encoder" in found else None
    return "stable_diffusion" if "text_encoder" in found else None


def tensors(part: Path) -> dict[str, Tensor]:
    """All tensors of a part, in their stored types; PerflowError if it holds no safetensors weights."""
    weights = [path for path in files(part) if path.suffix == ".safetensors"]
    if not weights:
        raise PerflowError(f"{part}: has no weights in safetensors; pickled ones are not read")
    found: dict[str, Tensor] = {}
    for path in weights:
        found |= artifacts.read_tensors(path)[0]
    return renamed(found)


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention under today's names, as diffusers loads files older than its 0.17 (``query`` is ``to_q``)."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        old = re.fullmatch(r"(.*attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)", name)
        found[f"{old[1]}{_RENAMED[old[2]]}{old[3]}" if old else name] = value
    return found


def with_network(base: Path, part: str, into: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Make ``into`` the pipeline folder ``base`` with other weights in ``part``, in one safetensors file."""
    artifacts.remove_folder(into)  # what an interrupted run left

    def replaced(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == base / part and name != "config.json"]

    shutil.copytree(base, into, ignore=replaced)
    artifacts.write_tensors(into / part / NETWORK_FILE, weights, about)
