"""Splits on disk: Parquet files written and read with the ``datasets`` library, checked by sha256."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perflow import artifacts
from perflow.ahead import mapped
from perflow.errors import PerflowError

if TYPE_CHECKING:
    import datasets


_PART_BYTES = 2**28


def parts(count: int, resolution: int) -> list[range]:
    """The items of each file of a split: as many as have 256 MiB of pixels."""
    size = max(1, _PART_BYTES // (3 * resolution**2))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def write(path: str | Path, rows: Iterable[Mapping[str, Any]], attributes: Iterable[str]) -> list[str]:
    """Write one split to ``path`` atomically, with the same bytes every time; return its columns.

    ``rows`` hold ``image`` (PNG bytes) or ``point`` (two numbers), ``text``, every attribute as a string or None,
    and ``label_<attribute>`` as an integer.
    """
    import datasets

    attributes = list(attributes)
    text, rows = datasets.Value("string"), list(rows)
    kind = "point" if rows and "point" in rows[0] else "image"
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


def split_files(manifest_path: str | Path, split: str) -> list[Path]:
    """The Parquet files of ``split``, verified: PerflowError naming one that is missing or altered."""
    files = manifest(manifest_path)["files"]
    if split not in files:
        raise PerflowError(f"{manifest_path}: no split '{split}'; there are {', '.join(sorted(files))}")
    parts = files[split] if isinstance(files[split], list) else [files[split]]
    return [artifacts.beside(manifest_path, entry) for entry in parts]


def load(manifest_path: str | Path, split: str) -> datasets.Dataset:
    """Read one split into memory (nothing is copied to a cache); PerflowError if a file was altered.

    Its ``info.description`` is the manifest's path, which whoever meets a broken item names.
    """
    import datasets
    import pyarrow
    import pyarrow.parquet as parquet

    paths = split_files(manifest_path, split)
    try:
        tables = [parquet.read_table(path) for path in paths]
        table = datasets.table.InMemoryTable(pyarrow.concat_tables(tables))
        return datasets.Dataset(table, info=datasets.DatasetInfo(description=str(manifest_path)))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise PerflowError(
            f"{paths[0]}: not a readable split ({error}); delete {manifest_path} and run again"
        ) from None


def of_points(dataset: datasets.Dataset) -> bool:
    """Whether the items of a split are points on the plane."""
    return "point" in dataset.column_names


def items(dataset: datasets.Dataset, chosen: range | None = None, threads: int = 0) -> np.ndarray:
    """The points of a split, all or those ``chosen``, float32 [N, 2]; or its images, as :func:`images`."""
    if of_points(dataset):
        return np.asarray(_cells(dataset, "point", chosen), dtype=np.float32)
    return images(dataset, chosen, threads)


class Encoded(Sequence[bytes]):
    """The images of a whole split as they lie there, each read when it is asked for."""

    def __init__(self, dataset: datasets.Dataset) -> None:
        self._dataset = dataset
        with _readable(dataset):
            self._column = dataset.data.column("image")

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, number: Any) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        with _readable(self._dataset):
            return bytes(self._column[number].as_py()["bytes"])

    def decode(self, data: bytes) -> np.ndarray:
        """One of them, uint8 [H, W, 3]; PerflowError naming the data set if it is broken."""
        with _readable(self._dataset):
            return decode(data)


def images(dataset: datasets.Dataset, chosen: range | None = None, threads: int = 0) -> np.ndarray:
    """The images of a split, all or those ``chosen``, uint8 [N, H, W, 3]; PerflowError if one is broken.

    ``dataset`` is a whole split: rows that its ``select`` left out are read all the same.
    """
    with _readable(dataset):
        cells = _cells(dataset, "image", chosen)
        return np.stack(list(mapped(decode, (cell["bytes"] for cell in cells), threads)))


@contextlib.contextmanager
def _readable(dataset: datasets.Dataset) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, EOFError, LookupError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PerflowError(
            f"{dataset.info.description}: an image of this data set cannot be read ({said}); delete it and run again"
        ) from error


def _cells(dataset: datasets.Dataset, name: str, chosen: range | None) -> list[Any]:
    column = dataset.data.column(name)
    return (column if chosen is None else column.slice(chosen.start, len(chosen))).to_pylist()


def decode(png: bytes) -> np.ndarray:
    """One PNG as uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))
