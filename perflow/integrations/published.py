"""Weights published without a header, in the layout of the official PeRFlow release: given one, they are a delta.

Published are deltas as a UNet folder (``diffusion_pytorch_model[.variant].safetensors``, whose tensors are not weights
but differences) and whole pipelines with the delta added. Neither says its base, windows or prediction.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from perflow import artifacts, delta
from perflow.core.piecewise import PATHS, WINDOW_PREDICTIONS
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.integrations.merge import base_scheduler
from perflow.models import PREDICTION_TYPES
from perflow.models import folder as pipeline_folder


class Adopted(NamedTuple):
    """What a published file was read as."""

    held: str
    """``delta``, or ``weights`` from which the base was subtracted."""
    relative_norm: float
    """‖ΔW‖ / ‖base‖."""


class Described(NamedTuple):
    """What a published delta leaves unsaid, besides its base."""

    windows: Windows
    prediction: str
    path: str = "straight"
    guidance: float | None = None
    origin: dict[str, str] | None = None
    """``hub`` and ``revision`` of the base, for the record."""
    timestep_offset: int = 0
    """0: the network is told T t, as the official code tells it."""


def adopt(source: Path, base: Path, said: Described, out: Path) -> Adopted:
    """Write ``out``, a delta with a header, from published weights.

    ``source`` is a .safetensors file of UNet tensors, a UNet folder with one such file, or a pipeline folder;
    ``base`` is the pipeline folder of the checkpoint it was taught from. What lies closer to the base than to zero
    is read as weights, anything else as a delta.

    PerflowError if names or shapes are not the base's, or for a description that no student has.
    """
    for field, known in (("path", PATHS), ("prediction", WINDOW_PREDICTIONS)):
        if getattr(said, field) not in known:
            raise PerflowError(f"--{field}: no '{getattr(said, field)}'; there are {', '.join(known)}")
    index = pipeline_folder.index(base)
    scheduler = base_scheduler(base, index)
    weights = pipeline_folder.tensors(base / pipeline_folder.NETWORK)
    found = _tensors(source)
    delta.check_shapes(str(source), found, weights)
    held = "weights" if _distance(found, weights) < _norm(found) else "delta"
    change = delta.subtract(found, weights) if held == "weights" else found
    student = delta.add(weights, change, {}, other_base=True)
    trial = {"solver": "window", "steps": len(said.windows), "guidance": said.guidance, "scheduler": None}
    artifacts.write_tensors(out, change, {
        "base": {"name": base.resolve().name, "origin": said.origin, "sha256": delta.identity(weights),
                 "pipeline": index["_class_name"]},
        "student": source.stem, "student_sha256": delta.identity(student), "sha256": artifacts.tensor_hash(change),
        "edges": list(said.windows.edges), "path": said.path, "prediction": said.prediction,
        "base_prediction": PREDICTION_TYPES[scheduler.config.prediction_type], "guidance": said.guidance,
        "timestep_offset": said.timestep_offset, "trial": None if said.guidance is None else trial,
        "adopted": {"held": held, "sha256": artifacts.tensor_hash(found)},
    })  # fmt: skip
    return Adopted(held, _norm(change) / _norm(weights))


def _tensors(source: Path) -> dict[str, Tensor]:
    if source.is_file():
        return artifacts.read_tensors(source)[0]
    if not source.is_dir():
        raise PerflowError(f"{source}: no such file or folder")
    whole = (source / pipeline_folder.INDEX).is_file()
    return pipeline_folder.tensors(source / pipeline_folder.NETWORK if whole else source)


def _norm(tensors: dict[str, Tensor]) -> float:
    return sum(float(value.double().square().sum()) for value in tensors.values()) ** 0.5


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return sum(float((one[name].double() - other[name].double()).square().sum()) for name in one) ** 0.5
