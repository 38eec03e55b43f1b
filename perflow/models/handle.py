"""The handle: model.json says all that is needed to draw from a model, taught or not.

A base's handle names its family, folder and the sha256 of its files; a student's names its base and
its delta. Nothing that draws or learns asks which of the two it was given.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from perflow import artifacts, delta
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.models import FAMILIES


@dataclass(frozen=True)
class Model:
    """A loaded model: the base's parts, its own network, and its flow (None without windows)."""

    name: str
    base: Any
    """The family object: schedule, prediction, encode, decode, embed, latent_shape, network()."""
    unet: nn.Module
    flow: PiecewiseFlow | None
    sha256: str
    """Hash of the network's tensor content."""
    guidance: float | None
    """The guidance it is meant to be sampled with."""


def base_handle(
    name: str, family: str, folder: Path, prediction: str, sha256: str, spec: str, network: str
) -> dict[str, Any]:
    """The handle of a base whose files lie in ``folder`` beside it; its network's lie in the part ``network``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "kind": "base", "name": name, "family": family, "folder": folder.name, "revision": None,
        "prediction": prediction, "sha256": sha256, "spec": spec, "network": network,
        "files": {path.relative_to(folder).as_posix(): artifacts.sha256_file(path) for path in files},
    }  # fmt: skip


def load(path: str | Path, device: str = "cpu") -> Model:
    """Load the model of a handle; PerflowError naming a file that is missing, altered or of another base."""
    path = Path(path)
    handle = artifacts.read_json(path)
    try:
        if handle["kind"] == "base":
            return _load_base(path, handle, device)
        return _load_student(path, handle, device)
    except KeyError as error:
        raise PerflowError(f"{path}: not a model handle (it lacks {error})") from None


def _load_base(path: Path, handle: dict[str, Any], device: str) -> Model:
    folder = path.parent / handle["folder"]
    for name, sha256 in handle["files"].items():
        artifacts.verify_file(folder / name, sha256, made_by=path)
    base = resolve_name(FAMILIES[handle["family"]])(folder, device)
    return Model(handle["name"], base, base.unet, None, handle["sha256"], None)


def _load_student(path: Path, handle: dict[str, Any], device: str) -> Model:
    base = load(path.parent / handle["base"], device)
    delta_path = path.parent / handle["delta"]
    tensors, header = artifacts.read_tensors(delta_path)
    unet = copy.deepcopy(base.unet)
    unet.load_state_dict(delta.add(base.unet.state_dict(), tensors, header, name=str(delta_path)))
    return Model(handle["name"], base.base, unet, flow(base, header), header["student_sha256"], header["guidance"])


def flow(base: Model, header: dict[str, Any]) -> PiecewiseFlow | None:
    """The flow a delta's header describes, on its base's schedule; None for a student without windows."""
    if header["edges"] is None:
        return None
    return PiecewiseFlow(
        base.base.schedule, Windows(tuple(header["edges"])), header["path"], header["prediction"], base.base.prediction
    )


def network_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a base's network, read and verified without building it."""
    base = artifacts.read_json(path)
    tensors: dict[str, Tensor] = {}
    for name, sha256 in base["files"].items():
        if name.startswith(base["network"] + "/") and name.endswith(".safetensors"):
            tensors |= artifacts.read_tensors(artifacts.verify_file(path.parent / base["folder"] / name, sha256, path))[
                0
            ]
    return tensors
