"""Real handwritten digits in colour, with captions that may leave attributes open.

scikit-learn ships 1,797 digits of 8x8 pixels written by 43 people, so nothing is downloaded. They are
split once, for every seed alike, into three disjoint sets of *source* digits; each split is rendered to
as many images as are asked for. A digit is enlarged with a bicubic kernel, padded, and used as the
mask between a foreground and a background colour. Half of the captions leave attributes out ("a red
handwritten digit on a background"), so that what a caption describes has several modes.

A style draws the same digits, colours and captions another way: it is what a base can be fine-tuned to.

Item ``index`` of a split is a function of (seed, split, index) only; counts never move it.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from perflow.datasets import SPLITS
from perflow.errors import PerflowError

NULL_CAPTION = ""
"""The caption that says nothing: the unconditional branch of guidance."""

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.95, 0.85, 0.12),
    "black": (0.05, 0.05, 0.05),
    "white": (0.95, 0.95, 0.95),
}
"""RGB in [0, 1], before jitter."""

_MOST_CAPTIONS = 10_000
"""Items that captions are looked for in; all that there are stand among the first few thousand."""
_JITTER = 0.04  # standard deviation of each colour channel
_SHARES = {"base": 0.45, "extractor": 0.3, "reference": 0.25}
_PAIRS = [(fg, bg) for fg in COLOURS for bg in COLOURS if fg != bg]


def attributes() -> dict[str, list[str]]:
    """The values of every attribute a caption can specify; a label is an index into its list."""
    return {"digit": list(DIGITS), "fg": list(COLOURS), "bg": list(COLOURS)}


def words() -> list[str]:
    """Every word a caption can hold, each once."""
    return ["a", "handwritten", "digit", "on", "background", *COLOURS, *DIGITS]


def caption(digit: str | None = None, fg: str | None = None, bg: str | None = None) -> str:
    """The caption that specifies the given attributes, such as "a red handwritten seven on a background"."""
    before = ["a", *([fg] if fg else []), "handwritten", digit or "digit"]
    behind = ["on", "a", *([bg] if bg else []), "background"]
    return " ".join(before + behind)


@functools.cache
def source_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: images [1797, 8, 8] in 0..16, labels [1797] in 0..9."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


@functools.cache
def source_split() -> dict[str, np.ndarray]:
    """Which source digits each split draws from: disjoint index arrays that cover all 1,797.

    The permutation is a constant, so that an extractor and a base of different seeds never share digits.
    """
    order = np.random.default_rng(1797).permutation(len(source_digits()[1]))
    cuts = np.cumsum([round(_SHARES[split] * len(order)) for split in SPLITS[:-1]])
    return dict(zip(SPLITS, np.split(order, cuts), strict=True))


@functools.cache
def _mask(source: int, resolution: int) -> np.ndarray:
    """One source digit as a mask [resolution, resolution] in [0, 1]; 7/8 of the side, centred."""
    side, pad = resolution * 7 // 8, resolution // 16
    glyph = Image.fromarray((source_digits()[0][source] / 16).astype(np.float32))
    glyph = glyph.resize((side, side), Image.Resampling.BICUBIC)
    return np.pad(np.clip(np.asarray(glyph), 0, 1), pad)


def _outlined(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A dark line of one pixel around the digit."""
    wider = Image.fromarray(mask.astype(np.float32)).filter(ImageFilter.MaxFilter(3))
    ring = np.clip(np.asarray(wider) - mask, 0, 1)[..., None]
    return pixels * (1 - ring) + _DARK * ring


def _faded(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Light from above: full brightness there, a third of it below."""
    return pixels * np.linspace(1, 1 / 3, len(pixels))[:, None, None]


_DARK = 0.02
STYLES = {"plain": lambda pixels, mask: pixels, "outlined": _outlined, "faded": _faded}
"""What is done to an image [H, W, 3] in [0, 1] with the mask [H, W] of its digit."""


@dataclass(frozen=True)
class Digits:
    """The source "digits": counts maps splits (base, extractor, reference) to numbers of images."""

    resolution: int
    counts: Mapping[str, int]
    seed: int
    style: str = "plain"

    attributes = staticmethod(attributes)

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution % 16:
            raise PerflowError(f"digits: resolution {self.resolution} is not valid; it is a multiple of 16")
        if odd := set(self.counts) - set(SPLITS):
            raise PerflowError(f"digits: counts for {', '.join(sorted(odd))}; the splits are {', '.join(SPLITS)}")
        if self.style not in STYLES:
            raise PerflowError(f"digits: no style '{self.style}'; there are {', '.join(STYLES)}")

    def rows(self, split: str, items: range | None = None) -> Iterator[dict[str, Any]]:
        """The items of ``split`` in order, all or those of ``items``."""
        return (self.row(split, index) for index in items or range(self.counts[split]))

    def captions(self, split: str) -> Iterator[dict[str, Any]]:
        """What the captions of the first items say, however many of them a study takes."""
        for index in range(_MOST_CAPTIONS):
            row = self.row(split, index)
            yield {name: row[name] for name in ("text", *attributes())}

    def words(self, split: str) -> list[str]:
        """Every word a caption can hold."""
        return words()

    def about(self, split: str) -> dict[str, Any]:
        """Nothing: an item is a function of the spec."""
        return {}

    def row(self, split: str, index: int) -> dict[str, Any]:
        """One item: PNG bytes, caption, what the caption says of each attribute, and the true labels.

        Source digits are used in turn, so every count gives a balanced set of handwritings.
        """
        key = hashlib.sha256(f"digits|{self.seed}|{split}|{index}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:16], "big"))
        sources = source_split()[split]
        source = int(sources[index % len(sources)])
        fg, bg = _PAIRS[rng.integers(len(_PAIRS))]
        inks = np.array([COLOURS[fg], COLOURS[bg]]) + _JITTER * rng.standard_normal((2, 3))
        truth = {"digit": DIGITS[source_digits()[1][source]], "fg": fg, "bg": bg}
        partial, dropped = rng.random() < 0.5, rng.random(3) < 0.5
        said = {
            name: None if partial and drop else value
            for (name, value), drop in zip(truth.items(), dropped, strict=True)
        }
        labels = {f"label_{name}": attributes()[name].index(value) for name, value in truth.items()}
        mask = _mask(source, self.resolution)
        pixels = np.clip(inks[0] * mask[..., None] + inks[1] * (1 - mask[..., None]), 0, 1)
        pixels = STYLES[self.style](pixels, mask)
        return {"image": _png(pixels), "text": caption(**said), **said, **labels}


def _png(pixels: np.ndarray) -> bytes:
    """PNG bytes of an image [H, W, 3] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()
