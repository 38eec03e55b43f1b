"""Splits on disk: the same bytes every time, and no altered file is ever read."""

import json
import subprocess
import sys

import numpy as np
import pytest

from perflow.artifacts import sha256_file
from perflow.datasets import SPLITS, store
from perflow.datasets.digits import Digits, words
from perflow.errors import PerflowError
from tests.digits import fetch_digits

COUNTS = {"base": 40, "extractor": 20, "reference": 10}


def made(out, seed=3):
    fetch_digits(out, COUNTS, seed, "hash")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "manifest.json"
    made(path)
    return path


@pytest.fixture
def copied(manifest, tmp_path):
    for path in manifest.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / manifest.name


def test_the_same_spec_gives_the_same_bytes(manifest, tmp_path):
    made(tmp_path / "manifest.json")
    names = sorted(path.name for path in manifest.parent.iterdir())
    assert names == sorted([*(f"{split}.parquet" for split in SPLITS), "manifest.json"])
    for name in names:
        assert (tmp_path / name).read_bytes() == (manifest.parent / name).read_bytes()


def test_another_seed_gives_other_images(manifest, tmp_path):
    made(tmp_path / "manifest.json", seed=4)
    assert sha256_file(tmp_path / "base.parquet") != sha256_file(manifest.parent / "base.parquet")


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_read_is_what_the_source_made(manifest, split):
    made_, read = list(Digits(16, COUNTS, 3).rows(split)), store.load(manifest, split)
    assert len(read) == COUNTS[split]
    for name in ("text", "digit", "fg", "bg", "label_digit", "label_fg", "label_bg"):
        assert read[name][:] == [row[name] for row in made_]
    images = store.images(read)
    assert images.shape == (COUNTS[split], 16, 16, 3)
    assert images.dtype == np.uint8
    assert (images == np.stack([store.decode(row["image"]) for row in made_])).all()
    assert np.array_equal(images[0], np.asarray(read[0]["image"]))


def test_the_manifest_says_what_there_is(manifest):
    content = json.loads(manifest.read_text())
    assert content["spec"] == "hash"
    assert content["counts"] == COUNTS
    assert content["words"] == words()
    assert content["columns"] == store.load(manifest, "base").column_names
    for split in SPLITS:
        (entry,) = content["files"][split]
        assert entry["sha256"] == sha256_file(manifest.parent / entry["file"])


def test_the_manifest_comes_last(tmp_path, monkeypatch):
    real = store.write

    def failing(path, *rest):
        if path.name == "reference.parquet":
            raise OSError("no space")
        return real(path, *rest)

    monkeypatch.setattr(store, "write", failing)
    with pytest.raises(OSError, match="no space"):
        made(tmp_path / "manifest.json")
    assert not (tmp_path / "manifest.json").exists()


def test_an_altered_file_is_refused_by_name(copied):
    path = copied.parent / "base.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(PerflowError, match="base.parquet"):
        store.load(copied, "base")
    assert len(store.load(copied, "reference")) == COUNTS["reference"]


def test_truncated_and_missing_files_are_refused_by_name(copied):
    path = copied.parent / "base.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PerflowError, match="base.parquet"):
        store.load(copied, "base")
    path.unlink()
    with pytest.raises(PerflowError, match="base.parquet"):
        store.load(copied, "base")


def test_an_unknown_split_lists_the_known_ones(manifest):
    with pytest.raises(PerflowError, match="base, extractor, reference"):
        store.load(manifest, "train")


def test_registries_import_no_heavy_library():
    code = "import sys, perflow.datasets, perflow.metrics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "perflow.datasets" in loaded.split()
    assert not {"torch", "sklearn", "datasets", "scipy", "numpy"} & set(loaded.split())
