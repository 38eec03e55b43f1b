"""Weights published without a header: read as those of a student, and given a header, a delta.

The official PeRFlow release holds deltas as a UNet folder (``diffusion_pytorch_model[.variant].safetensors``, whose
tensors are not weights but differences) and whole pipelines with the delta added. Neither says its base, windows or
prediction. Others publish whole networks (InstaFlow) or LoRAs (LCM-LoRA).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from perflow import artifacts, delta
from perflow.core.piecewise import PATHS, WINDOW_PREDICTIONS
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.integrations import settings
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


HELD = ("weights", "delta", "lora")
"""What published tensors are."""
_LAST = "conv_out."
"""The UNet's last layer, which is linear: with its sign turned the network says the opposite."""


def student_weights(
    source: Path, base: Path, family: str, held: str, towards_data: bool = False, told: bool = False
) -> dict[str, Tensor]:
    """The weights, fp32, of the student that ``source`` makes of the base in the pipeline folder ``base``.

    ``held`` says what the tensors are (:data:`HELD`); a LoRA is merged by diffusers, with the scales it names.
    ``towards_data``: the network says a velocity from noise to data, as InstaFlow's, and is turned around.
    ``told``: the network is told its guidance, as LCM's, by a matrix that the base lacks (``delta.ADDED``).
    PerflowError if names or shapes are not the base's, or if such a matrix is missing, unasked for or of another shape.
    """
    weights = pipeline_folder.tensors(base / pipeline_folder.NETWORK)
    if held == "lora":
        found = _with_lora(source, base, family)
    else:
        found = _tensors(source)
        delta.check_shapes(str(source), found, {**weights, **_told(source, found, weights, told)})
        found = delta.add(weights, found, {"told": told}, other_base=True) if held == "delta" else found
    found = {name: value.float().contiguous() for name, value in found.items()}
    return {name: -value if towards_data and name.startswith(_LAST) else value for name, value in found.items()}


def _told(source: Path, found: dict[str, Tensor], base: dict[str, Tensor], told: bool) -> dict[str, Tensor]:
    """What released weights have for the embedded guidance, if anything; PerflowError where it is missing, unasked
    for, or of a shape that it cannot have."""
    matrix = found.get(delta.ADDED)
    if (matrix is not None) != told:
        said = (
            f"its network is told no guidance (no '{delta.ADDED}'); leave source.guidance out"
            if matrix is None
            else f"its network is told its guidance ('{delta.ADDED}'); say its range as source.guidance: [least, most]"
        )
        raise PerflowError(f"{source}: {said}")
    if matrix is None:
        return {}
    channels = base["time_embedding.linear_1.weight"].shape[1]
    if matrix.ndim != 2 or matrix.shape[0] != channels or matrix.shape[1] < 4 or matrix.shape[1] % 2:
        shape = tuple(matrix.shape)
        raise PerflowError(f"{source}: '{delta.ADDED}' has shape {shape}; it is ({channels}, an even number from 4)")
    return {delta.ADDED: matrix}


def _with_lora(source: Path, base: Path, family: str) -> dict[str, Tensor]:
    """The base's UNet with a LoRA merged into it; PerflowError if it holds none, or text models' besides."""
    tensors = artifacts.read_tensors(source)[0] if source.is_file() else {}
    if not any("lora" in name for name in tensors):
        raise PerflowError(f"{source}: no file of a LoRA's tensors")
    if other := sorted(name for name in tensors if name.startswith(("lora_te", "text_encoder"))):
        raise PerflowError(f"{source}: changes a text model too ({other[0]}); a student is a network alone")
    pipe = settings.pipeline(base, family, "text")
    try:
        pipe.load_lora_weights(tensors, adapter_name="released")
        pipe.unet.fuse_lora(adapter_names=["released"])
        pipe.unet.unload_lora()
    except (ValueError, RuntimeError, KeyError) as error:
        raise PerflowError(f"{source}: not a LoRA of {base} ({str(error).strip().splitlines()[0]})") from None
    return {name: value.cpu() for name, value in pipe.unet.state_dict().items()}


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
