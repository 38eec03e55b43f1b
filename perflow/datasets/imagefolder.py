"""A folder of images, with metadata.csv or metadata.jsonl beside them, or whose file names are the captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.datasets import METADATA
from perflow.datasets.columns import absent, read_columns
from perflow.datasets.own import Own
from perflow.errors import PerflowError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FILE_NAME = "file_name"
"""The metadata's column of paths below the folder."""


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Own):
    """The source "imagefolder": captions of a metadata file, or file names without suffix, ``_`` read as a space."""

    folder: str
    captions_from: str = "metadata"

    def open(self) -> FolderTable:
        """The folder's images."""
        return FolderTable(Path(self.folder), self.captions_from, self.columns["caption"])


class FolderTable:
    """Images below a folder: those that the metadata names, in its order, or all, in the order of their names."""

    def __init__(self, folder: Path, captions: str, column: str):
        self.folder, self.where = folder, folder.name or str(folder)
        if not folder.is_dir():
            raise PerflowError(f"{folder}: no such folder; relative paths start at the repository")
        self.metadata = [folder / name for name in METADATA if (folder / name).is_file()]
        if captions == "metadata":
            if len(self.metadata) != 1:
                found = "both are there" if self.metadata else "neither is there"
                raise PerflowError(
                    f"{folder}: captions are in {' or '.join(METADATA)}, and {found};"
                    " for file names: captions_from: names"
                )
            self._columns = read_columns(self.metadata[0], required=(FILE_NAME,))
            self.files = [str(name or "") for name in self._columns[FILE_NAME]]
            if outside := [name for name in self.files if Path(name).is_absolute() or ".." in Path(name).parts]:
                raise PerflowError(f"{self.metadata[0]}: names '{outside[0]}', which is not below its folder")
        else:
            found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
            self.metadata, self.files = [], [path.relative_to(folder).as_posix() for path in found]
            self._columns = {column: [Path(name).stem.replace("_", " ") for name in self.files]}
        if not self.files:
            raise PerflowError(f"{folder}: no images; known are {', '.join(SUFFIXES)}")

    def __len__(self) -> int:
        return len(self.files)

    def column(self, name: str) -> Sequence[Any]:
        """A column of the metadata; PerflowError listing the columns there are."""
        if name not in self._columns:
            raise absent(self.where, name, self._columns)
        return self._columns[name]

    def images(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """The files' bytes; None for one that is not there."""
        for index in indices:
            path = self.folder / self.files[index]
            yield path.read_bytes() if path.is_file() else None

    def name(self, index: int) -> str:
        """The path below the folder."""
        return self.files[index] or f"row {index} of {self.metadata[0].name}"

    def about(self) -> dict[str, Any]:
        """The metadata and its hash."""
        return {"read": [{"name": path.name, "sha256": artifacts.sha256_file(path)} for path in self.metadata]}
