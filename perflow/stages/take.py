"""take: a student that others taught, as weights on its base."""

from __future__ import annotations

from pathlib import Path

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Student
from perflow.errors import PerflowError
from perflow.integrations import published
from perflow.models import handle


def take(spec: Spec, start: Path, out: Path, root: Path = Path()) -> None:
    """Write ``out``, the student's weights (fp32), as ``train`` does, and an empty ``curve.jsonl`` beside it.

    ``start`` is the handle of its base; relative paths of the row start at ``root``. PerflowError if the file is not
    the one the row names, or not of the base's shape.
    """
    row = Student.model_validate(spec.row)
    source, base = row.source, handle.read(start)
    if source is None:
        raise PerflowError(f"{spec.name}: has no source; it is taught with perflow train")
    place = root / Path(source.weights).expanduser()
    if not place.exists():
        raise PerflowError(f"{place}: no such file or folder")
    if source.sha256 is not None and (not place.is_file() or artifacts.sha256_file(place) != source.sha256):
        raise PerflowError(f"{place}: its sha256 is not the row's, {source.sha256[:12]}")
    folder = start.parent / base["folder"]
    weights = published.student_weights(
        place, folder, row.family, source.held, source.towards_data, row.told is not None
    )
    header = {
        "spec": spec.hash, "base": {"name": row.base, "sha256": base["sha256"]}, "steps": 0, "pairs": None,
        "sha256": artifacts.tensor_hash(weights),
    }  # fmt: skip
    artifacts.write_jsonl(out.with_name("curve.jsonl"), [])
    artifacts.write_tensors(out, weights, header)
