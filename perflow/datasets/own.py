"""Images and captions that a user brings: chosen by the seed, cropped and resized alike, the bad ones left out.

A source says where a split lies: a ``Table`` of items in an order of their own. Which of them a split takes is a
function of (seed, table): the base's from one end of a seeded order, the reference's from the other. They are
then kept in the table's order, so that a large table is read once, from its beginning to its end.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from perflow.ahead import cores, mapped
from perflow.datasets import Skipped
from perflow.errors import PerflowError
from perflow.images import every_format, png

RESIZE = "Pillow's bicubic kernel, antialiased, 8 bit"
"""How every image that has another size is resized; recorded in the manifest."""

_WORD = re.compile(r"[^\W\d_]+|\d|[^\s\w]+|_+")
"""What CLIP's tokenizer cuts a caption into: letters, single digits, signs."""


class Table(Protocol):
    """N items, read without being held."""

    where: str
    """What it is called in messages."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Sequence[Any]:
        """A column of N values; PerflowError listing the columns there are."""

    def images(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """The encoded images of rising ``indices``; None where there is none."""

    def name(self, index: int) -> str:
        """What an item is called in messages and in the manifest."""

    def about(self) -> dict[str, Any]:
        """Where the items are from, for the manifest."""


@dataclass(frozen=True)
class Own:
    """What sources of a user's own have in common; each opens its table."""

    resolution: int
    columns: Mapping[str, str]
    crop: str
    bad_items: int
    hold_out: Mapping[str, Any] | None
    seed: int
    counts: Mapping[str, int] = field(default_factory=dict)
    taken: int = 0
    """Items of the same table that are the base's."""

    def open(self) -> Table:
        """The table that the items are taken from."""
        raise TypeError("a source opens its own table")

    @cached_property
    def _table(self) -> Table:
        return self.open()

    def attributes(self) -> dict[str, list[str]]:
        """None: a caption is not taken apart."""
        return {}

    def about(self, split: str) -> dict[str, Any]:
        """The table, and what was done to its images."""
        return self._table.about() | {"crop": self.crop, "resize": RESIZE, "of": len(self._table)}

    def words(self, split: str) -> list[str]:
        """Every word of the split's captions, those of items without a usable image included, each once."""
        captions = self._captions
        return sorted({word for i in self._chosen(split) for word in _WORD.findall((_text(captions[i]) or "").lower())})

    def captions(self, split: str) -> Iterator[dict[str, Any]]:
        """Usable captions of the split in the seeded order."""
        captions, order = self._captions, self._order(split)
        return ({"text": text} for i in order[: len(order) - self.taken] if (text := _text(captions[i])) is not None)

    def rows(self, split: str, items: range | None = None) -> Iterator[dict[str, Any] | Skipped]:
        """The given items of a split, in the table's order, each a PNG and a caption, or why it is left out."""
        chosen = self._chosen(split)
        chosen = chosen if items is None else chosen[items.start : items.stop]
        table, captions = self._table, self._captions
        every_format()
        for index, found in zip(chosen, mapped(self._png, table.images(chosen), cores()), strict=True):
            text = _text(captions[index])
            why = found if isinstance(found, str) else "no caption" if text is None else None
            yield Skipped(table.name(index), why) if why else {"image": found, "text": text}

    @cached_property
    def _captions(self) -> Sequence[Any]:
        return self._table.column(self.columns["caption"])

    def _order(self, split: str) -> list[int]:
        """Every item that may be the split's, in a seeded order: the reference's is the base's reversed."""
        indices = np.arange(len(self._table))
        if self.hold_out is not None:
            held = self._held()
            indices = indices[held if split == "reference" else ~held]
        order = _random(self.seed, "items").permutation(indices).tolist()
        return order[::-1] if split == "reference" else order

    def _held(self) -> np.ndarray:
        """Which items are of the groups that the reference keeps to itself."""
        column, wanted = self.hold_out["column"], self.hold_out["groups"]
        values = [str(value) for value in self._table.column(column)]
        groups = sorted(set(values))
        if wanted >= len(groups):
            raise PerflowError(
                f"hold_out: {wanted} groups asked for, '{column}' of {self._table.where} has {len(groups)},"
                " and the base needs one"
            )
        kept = _random(self.seed, "groups").permutation(len(groups))[:wanted]
        return np.isin(values, [groups[i] for i in kept])

    def _chosen(self, split: str) -> list[int]:
        """The items of a split, rising."""
        order, count = self._order(split), self.counts[split]
        if count > len(order) - self.taken:
            taken = f" beside the {self.taken:,} of the base" if self.taken else ""
            raise PerflowError(
                f"counts.{split}: {count:,} items asked for{taken}; {self._table.where} has {len(order):,}"
            )
        return sorted(order[:count])

    def _png(self, data: bytes | None) -> bytes | str:
        """A PNG of resolution x resolution, or why there is none."""
        found = self._image(data)
        return found if isinstance(found, str) else png(found)

    def _image(self, data: bytes | None) -> np.ndarray | str:
        """uint8 [resolution, resolution, 3], or why there is none."""
        if not data:
            return "no image"
        try:
            with Image.open(io.BytesIO(data)) as image:
                return self._square(image)
        except Image.DecompressionBombError:
            return "more pixels than any picture has"
        except Exception as error:  # a decoder raises what it likes on bytes that are none
            return f"not a readable image ({(str(error) or type(error).__name__).splitlines()[0][:80]})"

    def _square(self, image: Image.Image) -> np.ndarray | str:
        if image.mode.startswith(("I", "F")):
            return f"its values are not of 8 bit (mode {image.mode})"
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB")
        width, height = image.size
        if self.crop == "center":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        size = (self.resolution, self.resolution)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)


def _random(seed: int, label: str) -> np.random.Generator:
    key = hashlib.sha256(f"own|{seed}|{label}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16], "big"))


def _text(value: Any) -> str | None:
    """A caption, the first of a list of them; None if it says nothing."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return value.strip() if isinstance(value, str) and value.strip() else None
