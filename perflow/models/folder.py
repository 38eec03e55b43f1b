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


def files(part: Path) -> dict[Path, str]:
    """The files that make a part on the disk -> the names they get."""
    if not part.is_dir():
        raise PerflowError(f"{part}: no such folder, though {INDEX} names it")
    return {part / name: new for name, new in chosen(part, (path.name for path in part.iterdir())).items()}


def tensors(part: Path) -> dict[str, Tensor]:
    """All tensors of a part, in their stored types; PerflowError if it holds no safetensors weights."""
    weights = [path for path in files(part) if path.suffix == ".safetensors"]
    if not weights:
        raise PerflowError(f"{part}: has no weights in safetensors; pickled ones are not read")
    found: dict[str, Tensor] = {}
    for path in weights:
        found |= artifacts.read_tensors(path)[0]
    return found


def with_network(base: Path, part: str, into: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Make ``into`` the pipeline folder ``base`` with other weights in ``part``, in one safetensors file."""
    shutil.rmtree(into, ignore_errors=True)  # what an interrupted run left

    def replaced(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(folder) == base / part and name != "config.json"]

    shutil.copytree(base, into, ignore=replaced)
    artifacts.write_tensors(into / part / NETWORK_FILE, weights, about)
