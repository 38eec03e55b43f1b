"""export: the student minus its base, as a delta that says all that is needed to use it."""

from __future__ import annotations

import os
from pathlib import Path

from perflow import artifacts, delta
from perflow.artifacts import Spec
from perflow.config.rows import Delta, Student
from perflow.models import PIPELINES, handle


def export(spec: Spec, student_spec: Path, weights: Path, base: Path, out: Path) -> None:
    """Write ``out``, the delta, and beside it ``model.json``, the student's handle."""
    row = Delta.model_validate(spec.row)
    trained = artifacts.read_spec(student_spec)
    student = Student.model_validate(trained.row)
    tensors, header = artifacts.read_tensors(weights)
    parent = handle.read(base)
    change = delta.subtract(tensors, handle.network_tensors(base))
    artifacts.write_tensors(out, change, {
        "base": {"name": row.base, "origin": parent.get("origin"), "sha256": parent["sha256"],
                 "pipeline": PIPELINES.get(parent["family"])},
        "student": row.student, "student_sha256": header["sha256"], "sha256": artifacts.tensor_hash(change),
        "edges": student.edges if row.windowed else None, "path": student.path, "prediction": student.prediction,
        "base_prediction": parent["prediction"], "timestep_offset": -1, "guidance": row.trial.guidance,
        "trial": row.trial.model_dump(exclude={"name"}),
        "row": student.model_dump(mode="json"), "spec": spec.hash, "student_spec": trained.hash,
    })  # fmt: skip
    model = out.with_name("model.json")
    artifacts.write_json(model, {
        "kind": "student", "name": row.student, "base": Path(os.path.relpath(base, model.parent)).as_posix(),
        "delta": out.name, "sha256": header["sha256"], "spec": spec.hash,
    })  # fmt: skip
