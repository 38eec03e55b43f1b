"""export: the student minus its base, as a delta that says all that is needed to use it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from perflow import artifacts, delta, lora
from perflow.artifacts import Spec
from perflow.config.rows import Delta, Student
from perflow.errors import PerflowError
from perflow.models import PIPELINES, handle


def export(spec: Spec, student_spec: Path, weights: Path, base: Path, out: Path) -> None:
    """Write ``out``, the delta, and beside it ``model.json``, the student's handle; of a low-rank student also
    ``lora.safetensors``, which the handle names."""
    row = Delta.model_validate(spec.row)
    trained = artifacts.read_spec(student_spec)
    student = Student.model_validate(trained.row)
    tensors, about = artifacts.read_tensors(weights)
    parent = handle.read(base)
    try:
        change = delta.subtract(tensors, handle.network_tensors(base), student.told is not None)
    except PerflowError as error:
        raise PerflowError(f"{weights} and {base}: {error}") from None
    header = {
        "base": {"name": row.base, "origin": parent.get("origin"), "sha256": parent["sha256"],
                 "pipeline": PIPELINES.get(parent["family"])},
        "student": row.student, "student_sha256": about["sha256"], "sha256": artifacts.tensor_hash(change),
        "edges": student.edges if row.windowed else None, "path": student.path, "prediction": student.prediction,
        "base_prediction": parent["prediction"], "guidance": row.trial.guidance,
        "timestep_offset": -1 if student.source is None else student.source.timestep_offset,
        "trial": row.trial.model_dump(exclude={"name"}),
        "row": student.model_dump(mode="json"), "spec": spec.hash, "student_spec": trained.hash,
    }  # fmt: skip
    if student.told is not None:
        header["told"] = {**student.told.model_dump(), "size": tensors[delta.ADDED].shape[1]}
    artifacts.write_tensors(out, change, header)
    named = (
        {} if student.rank is None else {"lora": _lora(change, student.rank, header, out.with_name("lora.safetensors"))}
    )
    model = out.with_name("model.json")
    artifacts.write_json(model, {
        "kind": "student", "name": row.student, "base": Path(os.path.relpath(base, model.parent)).as_posix(),
        "delta": out.name, "sha256": header["student_sha256"], "spec": spec.hash,
    } | named)  # fmt: skip


def _lora(change: dict[str, Tensor], rank: int, header: dict[str, Any], path: Path) -> dict[str, str]:
    """The delta of a low-rank student as a LoRA of that rank, which holds all of it, as diffusers reads it."""
    pairs, spectrum = lora.cut(change, rank)
    about = {"lora": {"rank": rank, "layout": "diffusers", "relative_error": spectrum.error(rank)}}
    said = {key: value for key, value in header.items() if key != "sha256"}
    artifacts.write_tensors(path, lora.LAYOUTS["diffusers"](pairs), said | about)
    return {"file": path.name, "sha256": artifacts.sha256_file(path)}
