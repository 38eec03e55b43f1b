"""prepare: take a pretrained checkpoint as a base, checked against its row."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from perflow import artifacts, delta
from perflow.artifacts import Spec
from perflow.config.rows import Pretrained
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.models import FAMILIES, OPTIONS, sources
from perflow.models import folder as pipeline_folder
from perflow.models.handle import base_handle


def prepare(spec: Spec, dataset: Path, out: Path, root: Path = Path()) -> None:
    """Copy the checkpoint to ``pipeline/`` beside ``out``, and write ``out``, its handle, and an empty curve.

    ``dataset`` is the manifest of the images it is taught with; relative paths of the row start at ``root``.
    PerflowError if the checkpoint is of another family or predicts something else than its row says, draws another
    resolution than the data set's, or has other values than its row pins.
    """
    row = Pretrained.model_validate(spec.row)
    folder, place, resolution = out.parent / "pipeline", f"bases.{spec.name}", store.manifest(dataset)["resolution"]
    sources.take(row.source, folder, root)
    content = pipeline_folder.index(folder)
    if (found := pipeline_folder.family(content)) != row.family:
        valid = f"family: {found}" if found else f"there are {', '.join(FAMILIES)}"
        raise PerflowError(f"{place}.family: {row.family}, but the checkpoint is a {content['_class_name']}; {valid}")
    options = _options(row)
    base = resolve_name(FAMILIES[row.family])(folder, **options)
    if base.prediction != row.prediction:
        says = f"the scheduler of {row.source.config} is for" if row.source.file else "the checkpoint predicts"
        raise PerflowError(f"{place}.prediction: {row.prediction}, but {says} {base.prediction}")
    if base.resolution != resolution:
        raise PerflowError(
            f"{place}: the checkpoint draws images of {base.resolution} pixels, the data set '{row.dataset}' has"
            f" {resolution}; set datasets.{row.dataset}.resolution: {base.resolution}"
        )
    sha256 = delta.identity(pipeline_folder.tensors(folder / pipeline_folder.NETWORK))
    if row.source.sha256 not in (None, sha256):
        raise PerflowError(f"{place}.source.sha256: {row.source.sha256}, but the checkpoint's values hash to {sha256}")
    artifacts.write_jsonl(out.with_name("curve.jsonl"), [])
    handle = base_handle(
        spec.name, row.family, folder, row.prediction, sha256, spec.hash, pipeline_folder.NETWORK, row.source.origin,
        options,
    )  # fmt: skip
    artifacts.write_json(out, handle)


def _options(row: Pretrained) -> dict[str, Any]:
    """What the row tells its family."""
    given = {name: getattr(row, name) for name in OPTIONS.get(row.family, {})}
    return {name: value for name, value in given.items() if value is not None}
