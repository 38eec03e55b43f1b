"""A data set of the hub at a commit, by the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PerflowError(f"{where}: cannot be fetched from the hub ({reason})") from None
        image = self.columns["image"]
        if image not in data.column_names:
            raise absent(where, image, data.column_names)
        if not isinstance(data.features[image], datasets.Image):
            raise PerflowError(f"{where}: the column '{image}' holds {data.features[image]}; it must hold images")
        about = {"hub": self.hub, "revision": self.revision, "name": self.name, "split": self.splits}
        return HubTable(data.cast_column(image, datasets.Image(decode=False)), image, f"{where} {self.splits}", about)


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
            if found and not found["bytes"] and found["path"]:
                with open(found["path"], "rb") as file:
                    found = {"bytes": file.read()}
            yield found and found["bytes"]

    def name(self, index: int) -> str:
        """The split and the row."""
        return f"{self._about['split']} row {index}"

    def about(self) -> dict[str, Any]:
        """The repository and its commit."""
        return {"read": [self._about]}
