"""A data set of the hub at a commit, by the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perflow import hub
from perflow.datasets.columns import absent
from perflow.datasets.own import Own
from perflow.errors import PerflowError


@dataclass(frozen=True, kw_only=True)
class Hub(Own):
    """The source "hub": a repository at a commit, and which of its splits."""

    hub: str
    revision: str
    name: str | None = None
    splits: str = "train"

    def open(self) -> HubTable:
        """The split, fetched or taken from the library's own cache."""
        import datasets

        where = f"{self.hub}@{self.revision[:12]}"
        datasets.disable_progress_bars()
        try:
            data = datasets.load_dataset(self.hub, self.name, split=self.splits, revision=self.revision)
        except Exception as error:  # the library's errors and those of its transport, others with every version
            raise hub.refusal(f"{self.hub}@{self.revision}", error, dataset=True) from None
        image = self.columns["image"]
        if image not in data.column_names:
            raise absent(where, image, data.column_names)
        kind = data.features[image]
        in_bytes = kind == datasets.Value("binary") or (isinstance(kind, dict) and "bytes" in kind)
        if not (in_bytes or isinstance(kind, datasets.Image)):
            raise PerflowError(f"{where}: the column '{image}' holds {kind}; images are bytes, or have bytes")
        about = {"hub": self.hub, "revision": self.revision, "name": self.name, "split": self.splits}
        return HubTable(data.cast_column(image, datasets.Image(decode=False)), image, f"{where} {self.splits}", about)


def _cached(path: str | None) -> bytes | None:
    """A file that the library fetched; None for any other place that a data set may name."""
    import datasets

    caches = [Path(folder).resolve() for folder in (datasets.config.HF_CACHE_HOME, hub.caches())]
    place = Path(path or "").resolve()
    return place.read_bytes() if place.is_file() and any(place.is_relative_to(cache) for cache in caches) else None


class HubTable:
    """A split of a data set of the hub."""

    def __init__(self, data: Any, image: str, where: str, about: dict[str, Any]):
        self.where, self._data, self._image, self._about = where, data, image, about

    def __len__(self) -> int:
        return len(self._data)

    def column(self, name: str) -> list[Any]:
        """A column; PerflowError listing the columns there are."""
        if name not in self._data.column_names:
            raise absent(self.where, name, self._data.column_names)
        return self._data.data.column(name).to_pylist()

    def images(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """The encoded images of ``indices``; a file that the library left on the disk is read."""
        for cell in self._data.select_columns([self._image]).select(indices):
            found = cell[self._image]
            yield found and (found["bytes"] or _cached(found["path"]))

    def name(self, index: int) -> str:
        """The split and the row."""
        return f"{self._about['split']} row {index}"

    def about(self) -> dict[str, Any]:
        """The repository and its commit."""
        return {"read": [self._about]}
