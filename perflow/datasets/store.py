"""Splits on disk: Parquet files written and read with the ``datasets`` library, checked by sha256."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perflow import artifacts
from perflow.errors import PerflowError

if TYPE_CHECKING:
    import datasets


def write(path: str | Path, rows: Iterable[Mapping[str, Any]], attributes: Iterable[str]) -> list[str]:
    """Write one split to ``path`` atomically, with the same bytes every time; return its columns.

    ``rows`` hold ``image`` (PNG bytes) or ``point`` (two numbers), ``text``, every attribute as a string or None,
    and ``label_<attribute>`` as an integer.
    """
    import datasets

    attributes = list(attributes)
    text, rows = datasets.Value("string"), list(rows)
    kind = "point" if "point" in rows[0] else "image"
    item = datasets.Sequence(datasets.Value("float32"), length=2) if kind == "point" else datasets.Image()
    features = datasets.Features(
        {kind: item, "text": text}
        | {name: text for name in attributes}
        | {f"label_{name}": datasets.Value("int32") for name in attributes}
    )
    columns: dict[str, list] = {name: [] for name in features}
    for row in rows:
        for name, values in columns.items():
            values.append({"bytes": row[name], "path": None} if name == "image" else row[name])
    datasets.disable_progress_bars()
    with artifacts.atomic(path) as temporary:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(temporary)
    return list(features)


def manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a data set; PerflowError naming it if it is another file."""
    what = "a manifest of a data set"
    return artifacts.read_object(path, what, spec=str, files=dict, resolution=int, attributes=dict, words=list)


def split_file(manifest_path: str | Path, split: str) -> Path:
    """The Parquet file of ``split``, verified: PerflowError naming it if it is missing or altered."""
    files = manifest(manifest_path)["files"]
    if split not in files:
        raise PerflowError(f"{manifest_path}: no split '{split}'; there are {', '.join(sorted(files))}")
    return artifacts.beside(manifest_path, files[split])


def load(manifest_path: str | Path, split: str) -> datasets.Dataset:
    """Read one split into memory (nothing is copied to a cache); PerflowError if the file was altered."""
    import datasets
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    path = split_file(manifest_path, split)
    try:
        return datasets.Dataset(datasets.table.InMemoryTable(parquet.read_table(path)))
    except (ArrowException, OSError, ValueError) as error:
        raise PerflowError(f"{path}: not a readable split ({error}); delete {manifest_path} and run again") from None


def items(dataset: datasets.Dataset) -> np.ndarray:
    """All points of a split, float32 [N, 2], or all images, as :func:`images`."""
    if "point" in dataset.column_names:
        return np.asarray(dataset.data.column("point").to_pylist(), dtype=np.float32)
    return images(dataset)


def images(dataset: datasets.Dataset) -> np.ndarray:
    """All images of a split, uint8 [N, H, W, 3]."""
    cells = dataset.data.column("image").to_pylist()
    return np.stack([decode(cell["bytes"]) for cell in cells])


def decode(png: bytes) -> np.ndarray:
    """One PNG as uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
