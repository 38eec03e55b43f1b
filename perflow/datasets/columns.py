"""Columns of a small table that a user wrote: csv, jsonl, parquet, or a text with one value a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perflow.errors import PerflowError

TEXT = "text"
"""The one column of a text file."""


def read_columns(path: Path, required: Iterable[str]) -> dict[str, list[Any]]:
    """All columns of ``path``, values as they stand, None where a line has none.

    PerflowError for a file that cannot be read, is of none of the kinds, or lacks a ``required`` column.
    """
    if path.suffix not in _READERS:
        raise PerflowError(f"{path}: not a table that is read here; known are {', '.join(_READERS)}")
    try:
        columns = _READERS[path.suffix](path)
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, csv.Error) as error:
        raise PerflowError(f"{path}: not a readable {path.suffix[1:]} file ({str(error).splitlines()[0]})") from None
    for name in required:
        if name not in columns:
            raise absent(str(path), name, columns)
    return columns


def absent(where: str, column: str, there: Iterable[str]) -> PerflowError:
    """The error for a column that is not there."""
    return PerflowError(f"{where}: no column '{column}'; there are {', '.join(there) or 'none'}")


def _csv(path: Path) -> dict[str, list[Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return _by_column(list(csv.DictReader(file, restkey="(more)")))


def _jsonl(path: Path) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    return _by_column(rows)


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pydict()


def _text(path: Path) -> dict[str, list[Any]]:
    return {TEXT: [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]}


def _by_column(rows: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet, ".txt": _text}
