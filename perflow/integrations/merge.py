"""base + delta as a checkpoint of its own: a diffusers pipeline folder, or a single file for other programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
from diffusers import SchedulerMixin
from torch import Tensor

from perflow import artifacts, delta
from perflow.errors import PerflowError
from perflow.integrations import single_file
from perflow.integrations.delta import check_prediction, plain_scheduler, scaled
from perflow.integrations.scheduler import PeRFlowScheduler
from perflow.models import PIPELINES, embedding
from perflow.models import folder as pipeline_folder

_OWN_SCHEDULER = ("DDIMPipeline", "PNDMPipeline")
"""Pipelines of pixels that put a scheduler of their own in the place of any other."""


class Merged(NamedTuple):
    """What was checked, and what a merged checkpoint is sampled with."""

    tensors: int
    """Tensors of the UNet; names and shapes are the delta's."""
    base: str
    """What the delta calls its base."""
    own_base: bool
    """Whether the folder holds that very base, by its values; False only where another one was allowed."""
    scheduler: str
    """Class of the scheduler that samples it."""

    @property
    def stock(self) -> bool:
        """Whether the scheduler is diffusers' own."""
        return self.scheduler != PeRFlowScheduler.__name__


def merge(delta_path: Path, base: Path, out: Path, scale: float = 1.0, other_base: bool = False) -> Merged:
    """Write base + ``scale`` delta to ``out``, complete or not at all.

    ``base`` is a diffusers pipeline folder. ``out`` is a new folder, whose other parts are the base's byte for
    byte and whose scheduler is the student's (diffusers' own where that samples it); or a name that ends
    in .safetensors, for one file with the tensor names of the original Stable Diffusion. Sums are fp32, kept in
    the type of the base's files.

    PerflowError as ``apply_delta`` raises, if the folder holds no safetensors weights, or if ``out`` is there.
    """
    if out.exists():
        raise PerflowError(f"{out}: is there already; give another --out, or delete it")
    change, header = artifacts.read_tensors(delta_path)
    index = pipeline_folder.index(base)
    name, scheduler = str(delta_path), base_scheduler(base, index)
    check_prediction(name, header, scheduler)
    weights = pipeline_folder.tensors(base / pipeline_folder.NETWORK)
    student = delta.add(weights, scaled(change, scale), header, other_base, name)
    own = plain_scheduler(name, header, scheduler)
    about = {"base": header.get("base"), "delta": artifacts.tensor_hash(change), "scale": scale}
    if out.suffix == ".safetensors":
        if header.get("told"):
            raise PerflowError(f"{name}: no single file holds how a network is told its guidance; give a folder")
        artifacts.write_tensors(out, single_file.tensors(base, index, student), about)
    else:
        _write_folder(out, base, index, student, own, about, header.get("told"))
    wanted = header.get("base") or {}
    own_base = delta.identity(weights) == wanted.get("sha256")
    return Merged(len(weights), str(wanted.get("name")), own_base, type(own).__name__)


def base_scheduler(base: Path, index: dict[str, Any]) -> SchedulerMixin:
    """The scheduler of a pipeline folder; PerflowError for one that neither diffusers nor perflow has."""
    name = index["scheduler"][1]
    kind = PeRFlowScheduler if name == PeRFlowScheduler.__name__ else getattr(diffusers, name, None)
    if kind is None or not issubclass(kind, SchedulerMixin):
        raise PerflowError(f"{base}: its scheduler '{name}' is none of diffusers {diffusers.__version__}")
    return kind.from_pretrained(pipeline_folder.place(base / "scheduler"), local_files_only=True)


def _write_folder(
    out: Path,
    base: Path,
    index: dict[str, Any],
    student: dict[str, Tensor],
    scheduler: SchedulerMixin,
    about: dict[str, Any],
    told: dict[str, Any] | None,
) -> None:
    network = pipeline_folder.NETWORK
    with _new_folder(out) as folder:
        for part in pipeline_folder.parts(index).keys() - {network, "scheduler"}:
            (folder / part).mkdir()
            for source, name in pipeline_folder.files(base / part).items():
                shutil.copyfile(source, folder / part / name)
        (folder / network).mkdir()
        config = pipeline_folder.place(base / network) / "config.json"
        shutil.copyfile(config, folder / network / "config.json")
        if told is not None:
            wider = artifacts.read_json(config) | {embedding.OPTION: told["size"]}
            artifacts.write_json(folder / network / "config.json", wider)
        artifacts.write_tensors(folder / network / pipeline_folder.NETWORK_FILE, student, about)
        scheduler.save_pretrained(folder / "scheduler")
        kind = type(scheduler)
        library = "diffusers" if getattr(diffusers, kind.__name__, None) is kind else kind.__module__
        own = {"scheduler": [library, kind.__name__]}
        if index["_class_name"] in _OWN_SCHEDULER:
            own["_class_name"] = PIPELINES["pixel"]
        artifacts.write_json(folder / pipeline_folder.INDEX, index | own)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, renamed to it at the end, removed on any error."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
