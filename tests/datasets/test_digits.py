"""The digits: disjoint at the source, captions that tell the truth, items that are functions of their key."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from perflow.datasets import SPLITS
from perflow.datasets.digits import (
    COLOURS,
    Digits,
    attributes,
    caption,
    source_digits,
    source_split,
    words,
)
from perflow.errors import PerflowError

COUNT = 400


@pytest.fixture(scope="module")
def source():
    return Digits(16, dict.fromkeys(SPLITS, COUNT), seed=3)


@pytest.fixture(scope="module")
def rows(source):
    return list(source.rows("base"))


def pixels(row):
    """[16, 16, 3] in [0, 1]."""
    return np.asarray(Image.open(io.BytesIO(row["image"])), dtype=float) / 255


def named(colour):
    """The index of the named colour nearest to an RGB value."""
    return int(np.square(np.array(list(COLOURS.values())) - colour).sum(1).argmin())


def inks(image):
    """Background (the padding) and foreground (the pixel farthest from it)."""
    behind = image[0, 0]
    distance = np.square(image - behind).sum(-1)
    return behind, image[np.unravel_index(distance.argmax(), distance.shape)]


def test_splits_share_no_source_digit_and_cover_all():
    parts = [set(source_split()[split].tolist()) for split in SPLITS]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 1797


def test_an_item_depends_on_seed_split_and_index_only(source, rows):
    other_counts = Digits(16, {"base": 7, "extractor": 1, "reference": 1}, seed=3)
    assert other_counts.row("base", 5) == rows[5]
    assert Digits(16, source.counts, seed=4).row("base", 5) != rows[5]
    assert rows[6] != rows[5]
    colours = [
        [(row["label_fg"], row["label_bg"]) for row in made]
        for made in (rows[:50], [source.row("extractor", index) for index in range(50)])
    ]
    assert np.mean([a == b for a, b in zip(*colours, strict=True)]) < 0.3


def test_the_global_generator_is_left_alone(source):
    before = np.random.get_state()[1].copy()
    source.row("base", 0)
    assert (np.random.get_state()[1] == before).all()


def test_captions_say_what_the_columns_say_and_the_columns_tell_the_truth(rows):
    values = attributes()
    for row in rows:
        assert row["text"] == caption(row["digit"], row["fg"], row["bg"])
        for name in values:
            assert row[name] in (None, values[name][row[f"label_{name}"]])
        assert row["label_fg"] != row["label_bg"]


def test_captions_read_as_written():
    assert caption("seven", "red", "blue") == "a red handwritten seven on a blue background"
    assert caption(digit="seven") == "a handwritten seven on a background"
    assert caption(fg="red", bg="blue") == "a red handwritten digit on a blue background"
    assert caption() == "a handwritten digit on a background"


def test_words_are_the_words_of_captions(rows):
    assert {word for row in rows for word in row["text"].split()} == set(words())
    assert len(words()) == len(set(words()))


def test_half_of_the_captions_drop_each_attribute_half_of_the_time(rows):
    complete = sum(None not in (row["digit"], row["fg"], row["bg"]) for row in rows)
    assert binomtest(complete, COUNT, 0.5 + 0.5**4).pvalue > 1e-4
    for name in attributes():
        dropped = sum(row[name] is None for row in rows)
        assert binomtest(dropped, COUNT, 0.25).pvalue > 1e-4


def test_colours_are_the_named_ones_with_a_little_jitter(rows):
    images = [pixels(row) for row in rows]
    assert all(image.shape == (16, 16, 3) for image in images)
    for row, image in zip(rows, images, strict=True):
        behind, ink = inks(image)
        assert (named(behind), named(ink)) == (row["label_bg"], row["label_fg"])
    backgrounds = [tuple(image[0, 0]) for image in images]
    assert len(set(backgrounds)) > COUNT / 2


@pytest.mark.parametrize("resolution", [16, 32])
def test_the_image_shows_its_source_digit(resolution):
    source = Digits(resolution, dict.fromkeys(SPLITS, 30), seed=0)
    images, labels = source_digits()
    flat = images.reshape(len(images), -1)
    for index, row in enumerate(source.rows("reference")):
        origin = source_split()["reference"][index]
        assert row["label_digit"] == labels[origin]
        image = np.asarray(Image.open(io.BytesIO(row["image"])), dtype=float) / 255
        behind, ink = inks(image)
        mask = (image - behind) @ (ink - behind) / np.square(ink - behind).sum()
        edge = resolution // 16
        inner = Image.fromarray(mask[edge:-edge, edge:-edge].astype(np.float32))
        small = np.asarray(inner.resize((8, 8), Image.Resampling.BOX))
        likeness = np.corrcoef(np.vstack([small.ravel(), flat]))[0, 1:]
        assert likeness.argmax() == origin


@pytest.mark.parametrize("resolution", [0, 8, 24])
def test_impossible_resolutions_are_refused(resolution):
    with pytest.raises(PerflowError, match="multiple of 16"):
        Digits(resolution, dict.fromkeys(SPLITS, 1), seed=0)


def test_a_split_that_is_none_is_refused():
    with pytest.raises(PerflowError, match="base, extractor, reference"):
        Digits(16, {"train": 1}, seed=0)
