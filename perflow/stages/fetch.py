"""fetch: make a data set's splits, then their manifest."""

from __future__ import annotations

import pkgutil
from pathlib import Path

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Dataset
from perflow.datasets import DATASETS, SPLITS, store


def fetch(spec: Spec, out: Path) -> None:
    """Write ``<split>.parquet`` beside ``out``, and last ``out``, the manifest that names and hashes them.

    The manifest also carries ``attributes`` (name -> values) and ``words`` (all words of captions), so
    that whoever reads the data set needs to know nothing of its source.
    """
    row = Dataset.model_validate(spec.row)
    source = pkgutil.resolve_name(DATASETS[row.source])(row.resolution, row.counts, spec.seed, row.style)
    files, columns = {}, []
    for split in SPLITS:
        path = out.parent / f"{split}.parquet"
        columns = store.write(path, source.rows(split), source.attributes())
        files[split] = {"file": path.name, "sha256": artifacts.sha256_file(path)}
    manifest = {
        "spec": spec.hash,
        "counts": dict(row.counts),
        "files": files,
        "columns": columns,
        "resolution": row.resolution,
        "attributes": source.attributes(),
        "words": source.words(),
    }
    artifacts.write_json(out, manifest)
