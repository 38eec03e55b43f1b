"""The handle: model.json says all that is needed to draw from a model, taught or not.

A base's handle names its family, folder and the sha256 of its files; a student's names its base and
its delta. Nothing that draws or learns asks which of the two it was given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from torch import Tensor, nn

from perflow import artifacts, delta, record
from perflow.core.condition import Condition
from perflow.core.fields import Denoiser, clipped
from perflow.core.guidance import guided, nfe, told
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import normal
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.models import FAMILIES, OPTIONS, embedding
from perflow.models import folder as pipeline_folder


@dataclass(frozen=True)
class Model:
    """A loaded model: the base's parts, its own network, and its flow (None without windows; some bases have one)."""

    name: str
    base: Any
    """The family object, see ``parts.Parts``."""
    unet: nn.Module
    flow: PiecewiseFlow | None
    sha256: str
    """Hash of the network's tensor content."""
    base_sha256: str
    """That of its base's; a base is its own."""
    trial: dict[str, Any] | None
    """How a student is meant to be sampled: ``solver``, ``steps``, ``guidance``, ``scheduler``."""
    taught: bool = True
    told: dict[str, Any] | None = None
    """How its network is told its guidance: ``size`` of the embedding, ``least`` and ``most``; None: it is not."""

    def says(self, condition: Condition, null: Condition | None, guidance: float | Tensor) -> Denoiser:
        """The network under a condition (see ``guided``); a base's within the range its checkpoint keeps x0 in.

        One that is told its guidance does not read ``null``."""
        if self.told is not None:
            return guided(self.base.network(self.unet), told(condition, guidance, self.told["size"]), None, 1)
        network = guided(self.base.network(self.unet), condition, null, guidance)
        if self.base.clip is None or self.taught:
            return network
        return clipped(network, self.base.schedule, self.base.prediction, self.base.clip)

    def nfe(self, guidance: float | list[float]) -> int:
        """Network evaluations that one call of ``says`` costs, at a guidance or in a range of them."""
        return 1 if self.told is not None else nfe(guidance)

    def noise(self, seed: int, label: str, items: Iterable[int]) -> Tensor:
        """What sampling starts from, [N, *latent] on the CPU: normal noise, or a family's own; item by item."""
        own = getattr(self.base, "noise", None)
        return own(seed, label, items) if own else normal(self.base.latent_shape, seed, label, items)


def base_handle(
    name: str, family: str, folder: Path, prediction: str, sha256: str, spec: str, network: str,
    origin: dict[str, str] | None = None, options: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The handle of a base whose files lie in ``folder`` beside it; its network's lie in the part ``network``.

    ``origin`` says where a pretrained base can be found again: ``hub`` and ``revision``; ``options`` are what its
    family is told beside the folder.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        "kind": "base", "name": name, "family": family, "folder": folder.name, "origin": origin,
        "prediction": prediction, "sha256": sha256, "spec": spec, "network": network, "options": options or {},
        "files": {path.relative_to(folder).as_posix(): artifacts.sha256_file(path) for path in files},
    }  # fmt: skip


def descended(base: dict[str, Any], name: str, folder: Path, sha256: str, spec: str) -> dict[str, Any]:
    """The handle of a base whose files in ``folder`` are those of ``base``, a handle, but for its network."""
    return base_handle(
        name, base["family"], folder, base["prediction"], sha256, spec, base["network"], options=base.get("options")
    )


def read(path: str | Path) -> dict[str, Any]:
    """A handle; PerflowError naming the file if it is none."""
    what = "a model handle"
    handle = artifacts.read_object(path, what, kind=str, name=str, sha256=str)
    if handle["kind"] == "student":
        return artifacts.has(handle, path, what, base=str, delta=str)
    if handle["kind"] != "base":
        raise PerflowError(f"{path}: not {what} (its kind is '{handle['kind']}'; there are base, student)")
    artifacts.has(handle, path, what, family=str, folder=str, files=dict, network=str, prediction=str)
    if handle["family"] not in FAMILIES:
        raise PerflowError(f"{path}: no family '{handle['family']}'; there are {', '.join(FAMILIES)}")
    known, options = OPTIONS.get(handle["family"], {}), handle.get("options", {})
    if not isinstance(options, dict) or options.keys() - known:
        raise PerflowError(
            f"{path}: not {what} (its options are {', '.join(known) or 'none'}); delete it and run again"
        )
    artifacts.has(options, path, what, **{name: known[name] for name in options})
    return handle


def load(path: str | Path, device: str = "cpu") -> Model:
    """Load the model of a handle; PerflowError naming a file that is missing, altered or of another base."""
    path = Path(path)
    handle = read(path)
    return _load_base(path, handle, device) if handle["kind"] == "base" else _load_student(path, handle, device)


def _files(path: Path) -> list[Path]:
    """The files of a base, verified."""
    return [artifacts.beside(path, entry) for entry in record.named(path)]


def _load_base(path: Path, handle: dict[str, Any], device: str) -> Model:
    _files(path)
    options = handle.get("options", {})
    base = resolve_name(FAMILIES[handle["family"]])(path.parent / handle["folder"], device, **options)
    flow, sha256 = getattr(base, "flow", None), handle["sha256"]
    return Model(handle["name"], base, base.unet, flow, sha256, sha256, None, taught=False)


def _load_student(path: Path, handle: dict[str, Any], device: str) -> Model:
    base_path, delta_path = path.parent / handle["base"], path.parent / handle["delta"]
    base_handle = read(base_path)
    if base_handle["kind"] != "base":
        raise PerflowError(f"{path}: its base {base_path} is a {base_handle['kind']}, and must be a base")
    base = _load_base(base_path, base_handle, device)
    tensors, header = artifacts.read_tensors(delta_path)
    unet = copy.deepcopy(base.unet)
    student = delta.add(base.unet.state_dict(), tensors, header, name=str(delta_path))
    try:
        taught, told = flow(base, header), header.get("told")
        if told is not None:
            embedding.insert(unet, told["size"])
        unet.load_state_dict(student)
        sha256 = header["student_sha256"]
        return Model(handle["name"], base.base, unet, taught, sha256, base.sha256, header["trial"], told=told)
    except (PerflowError, KeyError, TypeError, ValueError) as error:
        raise PerflowError(
            f"{delta_path}: its header does not describe a student ({error}); delete it and run again"
        ) from None


def flow(base: Model, header: dict[str, Any]) -> PiecewiseFlow | None:
    """The flow a delta's header describes, on its base's schedule; None for a student without windows."""
    if header["edges"] is None:
        return None
    return PiecewiseFlow(
        base.base.schedule, Windows(tuple(header["edges"])), header["path"], header["prediction"],
        base.base.prediction, header["timestep_offset"],
    )  # fmt: skip


def network_tensors(path: Path) -> dict[str, Tensor]:
    """The weights of a base's network, read and verified without building it."""
    handle = read(path)
    if handle["kind"] != "base":
        raise PerflowError(f"{path}: the handle of a {handle['kind']}, and must be a base's")
    tensors: dict[str, Tensor] = {}
    for file in _files(path):
        if file.suffix == ".safetensors" and path.parent / handle["folder"] / handle["network"] in file.parents:
            tensors |= artifacts.read_tensors(file)[0]
    return pipeline_folder.renamed(tensors)
