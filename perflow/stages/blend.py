"""blend: a base on the line from a base to its fine-tune, base + scale (fine-tune - base)."""

from __future__ import annotations

from pathlib import Path

from perflow import artifacts, delta
from perflow.artifacts import Spec
from perflow.config.rows import Scaled
from perflow.models import folder, handle


def blend(spec: Spec, start: Path, tuned: Path, out: Path) -> None:
    """Write ``out``, a base's handle, and beside it ``pipeline/`` and an empty curve.

    ``start`` is the handle of the base, ``tuned`` that of its fine-tune. Sums are fp32, in the base's types.
    """
    row = Scaled.model_validate(spec.row)
    base, found = handle.network_tensors(start), handle.read(tuned)
    change = delta.subtract(handle.network_tensors(tuned), base)
    weights = {name: (value.float() + row.scale * change[name]).to(value.dtype) for name, value in base.items()}
    into = out.with_name("pipeline")
    folder.with_network(tuned.parent / found["folder"], found["network"], into, weights, {"spec": spec.hash})
    artifacts.write_jsonl(out.with_name("curve.jsonl"), [])
    artifacts.write_json(out, handle.descended(found, spec.name, into, delta.identity(weights), spec.hash))
