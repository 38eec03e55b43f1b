"""Parquet files with a column of images and one of captions, as ``datasets`` writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.datasets.columns import absent
from perflow.datasets.own import Own
from perflow.errors import PerflowError

_BATCH = 256
"""Images read at a time."""


@dataclass(frozen=True, kw_only=True)
class Parquet(Own):
    """The source "parquet": ``files`` are one table, in their order."""

    files: Sequence[str]

    def open(self) -> ParquetTable:
        """The files as one table."""
        return ParquetTable(tuple(Path(name) for name in self.files), self.columns["image"])


class ParquetTable:
    """Parquet files of one schema; ``image`` is a column of encoded bytes, or of structures with ``bytes``."""

    def __init__(self, paths: tuple[Path, ...], image: str):
        import pyarrow
        import pyarrow.dataset

        self.paths, self.image = paths, image
        self.where = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
        for path in paths:
            if not path.is_file():
                raise PerflowError(f"{path}: no such file; relative paths start at the repository")
        try:
            self._data = pyarrow.dataset.dataset([os.fspath(path) for path in paths], format="parquet")
            self._rows = [part.count_rows() for part in self._data.get_fragments()]
        except (pyarrow.ArrowException, OSError) as error:
            raise PerflowError(f"{self.where}: not readable Parquet ({str(error).splitlines()[0]})") from None
        if image not in self._data.schema.names:
            raise absent(self.where, image, self._data.schema.names)
        kind = self._data.schema.field(image).type
        inner = (
            kind.field("bytes").type if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
        )
        if not (pyarrow.types.is_binary(inner) or pyarrow.types.is_large_binary(inner)):
            raise PerflowError(f"{self.where}: the column '{image}' holds {kind}; images are bytes, or have bytes")

    def __len__(self) -> int:
        return sum(self._rows)

    def column(self, name: str) -> list[Any]:
        """A column; PerflowError listing the columns there are."""
        if name not in self._data.schema.names:
            raise absent(self.where, name, self._data.schema.names)
        return self._data.to_table(columns=[name]).column(name).to_pylist()

    def images(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """The encoded images of rising ``indices``."""
        wanted, first = iter(indices), 0
        index = next(wanted, None)
        for batch in self._data.to_batches(columns=[self.image], batch_size=_BATCH, use_threads=False):
            cells = batch.column(0)
            while index is not None and index < first + len(cells):
                cell = cells[index - first].as_py()
                yield cell["bytes"] if isinstance(cell, dict) else cell
                index = next(wanted, None)
            first += len(cells)
            if index is None:
                return

    def name(self, index: int) -> str:
        """The file and the row."""
        for path, count in zip(self.paths, self._rows, strict=True):
            if index < count:
                return f"{path.name} row {index}"
            index -= count
        raise IndexError(index)

    @cached_property
    def _sha256(self) -> list[str]:
        return [artifacts.sha256_file(path) for path in self.paths]

    def about(self) -> dict[str, Any]:
        """The files and their hashes."""
        return {
            "read": [{"name": path.name, "sha256": sha} for path, sha in zip(self.paths, self._sha256, strict=True)]
        }
