"""Images of a user's own: what is taken, what is left out and said, and that nothing moves that need not."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from perflow import artifacts, config
from perflow.artifacts import Spec
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.stages.fetch import fetch
from perflow.stages.prompts import prompts
from tests.hub import COMMIT, serve

COLOURS = np.random.default_rng(0).integers(0, 256, (60, 3)).astype(np.uint8)
"""The colour of each item's image: what tells it from the others."""


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(i, size=(24, 16)):
    return encoded(Image.new("RGB", size, tuple(COLOURS[i].tolist())))


def write_parquet(path, images, texts, **more):
    cells = [{"bytes": data, "path": None} for data in images]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = {"picture": pa.array(cells, kind), "words": pa.array(texts, pa.string())}
    parquet.write_table(pa.table(table | {k: pa.array(v) for k, v in more.items()}), path, row_group_size=7)


def settings(source="parquet", **changes):
    common = {"resolution": 16, "columns": {"image": "picture", "caption": "words"}, "crop": "center", "bad_items": 0,
              "hold_out": None}  # fmt: skip
    place = {"files": ["*.parquet"]} if source == "parquet" else {"folder": "photos", "captions_from": "metadata"}
    return common | place | changes


def make(root, counts, source="parquet", seed=0, out="out", **changes):
    """Fetch by the stage; returns the manifest's path."""
    row = {"dataset": "own", "source": source, "settings": settings(source, **changes), "counts": counts}
    manifest = root / out / "manifest.json"
    list(fetch(Spec("splits", "own", seed, row, "hash"), manifest, root / "state" / out, root))
    return manifest


def items(manifest, split):
    """Which items a split holds, by their colours."""
    found = store.images(store.load(manifest, split))[:, 8, 8]
    return [int(np.flatnonzero((colour == COLOURS).all(1))[0]) for colour in found]


@pytest.fixture
def pool(tmp_path):
    """Sixty images in two files."""
    for part in (0, 1):
        chosen = range(30 * part, 30 * part + 30)
        write_parquet(tmp_path / f"{part}.parquet", [plain(i) for i in chosen], [f"item {i}" for i in chosen],
                      kind=[f"kind {i // 6}" for i in chosen])  # fmt: skip
    return tmp_path


def test_splits_of_one_pool_share_nothing_and_a_count_moves_only_its_own(pool):
    whole = make(pool, {"base": 40})
    base = items(whole, "base")
    assert len(set(base)) == 40
    assert store.load(whole, "base")["text"][:] == [f"item {i}" for i in base]
    assert base == sorted(base)  # read from the beginning of the table to its end
    reference = items(make(pool, {"reference": 20}, taken=40), "reference")
    assert not set(base) & set(reference)
    assert set(items(make(pool, {"reference": 10}, taken=40), "reference")) < set(reference)
    assert set(items(make(pool, {"base": 10}), "base")) < set(base)
    assert set(items(make(pool, {"base": 40}, seed=1), "base")) != set(base)
    with pytest.raises(
        PerflowError, match=r"counts.reference: 21 items asked for beside the 40 of the base; .* has 60"
    ):
        make(pool, {"reference": 21}, taken=40)


def test_groups_that_are_held_out_are_in_the_reference_alone(pool):
    hold_out = {"column": "kind", "groups": 2}
    base, reference = (items(make(pool, {split: count}, hold_out=hold_out), split)
                       for split, count in (("base", 48), ("reference", 12)))  # fmt: skip
    assert len({i // 6 for i in reference}) == 2
    assert not {i // 6 for i in base} & {i // 6 for i in reference}
    with pytest.raises(PerflowError, match="counts.base: 49 items asked for; .* has 48"):
        make(pool, {"base": 49}, hold_out=hold_out)


def test_prompts_are_the_references_captions_and_no_count_moves_them(pool):
    def drawn(count):
        captions = {"dataset": "own", "source": "parquet", "settings": settings(taken=40)}
        row = {"count": count, "captions": captions, "split": "reference"}
        prompts(Spec("prompts", "own", 0, row, "hash"), pool / "prompts.json", pool)
        return [prompt["text"] for prompt in artifacts.read_json(pool / "prompts.json")["prompts"]]

    reference = items(make(pool, {"reference": 8}, taken=40), "reference")
    assert set(drawn(8)) == {f"item {i}" for i in reference}
    assert drawn(20)[:8] == drawn(8)
    with pytest.raises(PerflowError, match=r"sampling.prompts: 21 asked for, .* has 20 different ones"):
        drawn(21)


def test_the_same_spec_gives_the_same_bytes_in_one_part_or_resumed_in_many(pool, monkeypatch):
    monkeypatch.setattr(store, "_PART_BYTES", 10 * 3 * 16**2)
    make(pool, {"base": 45}, out="whole")
    row = {"dataset": "own", "source": "parquet", "settings": settings(), "counts": {"base": 45}}
    stage = fetch(Spec("splits", "own", 0, row, "hash"), pool / "broken/manifest.json", pool / "state/broken", pool)
    for _ in range(2):
        next(stage)
    stage.close()
    there = {path: path.stat().st_mtime_ns for path in (pool / "broken").glob("*.parquet")}
    assert len(there) == 2
    assert not (pool / "broken/manifest.json").exists()
    make(pool, {"base": 45}, out="broken")
    assert {path: path.stat().st_mtime_ns for path in there} == there
    files = {path.name: path.read_bytes() for path in (pool / "whole").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (pool / "broken").iterdir()}
    assert len(files) == 6
    (pool / "0.parquet").write_bytes((pool / "1.parquet").read_bytes())  # other images: no part of the old ones is kept
    make(pool, {"base": 45}, out="broken")
    assert min(items(pool / "broken/manifest.json", "base")) >= 30


def test_bad_items_are_left_out_by_name_up_to_the_limit(tmp_path):
    bad = {1: b"", 3: b"no image", 5: plain(5)[:60], 8: encoded(Image.new("I;16", (9, 9)))}
    texts = [f"item {i}" for i in range(10)]
    texts[6], texts[7] = None, "  "
    write_parquet(tmp_path / "a.parquet", [bad.get(i, plain(i)) for i in range(10)], texts)
    manifest = make(tmp_path, {"base": 10}, bad_items=6)
    content = artifacts.read_json(manifest)
    assert items(manifest, "base") == [0, 2, 4, 9]
    assert content["counts"] == {"base": 4}
    assert [item["name"] for item in content["skipped"]["base"]] == [f"a.parquet row {i}" for i in (1, 3, 5, 6, 7, 8)]
    why = [item["why"] for item in content["skipped"]["base"]]
    assert why[0] == "no image"
    assert why[3] == why[4] == "no caption"
    assert "not a readable image" in why[1]
    assert "not of 8 bit" in why[5]
    with pytest.raises(PerflowError, match=r"more than 5 items .*a\.parquet row 1: no image; .*own\.bad_items"):
        make(tmp_path, {"base": 10}, bad_items=5, out="other")
    assert not (tmp_path / "other/manifest.json").exists()


def test_crops_transparency_and_turned_photos_become_what_a_viewer_shows(tmp_path):
    wide = Image.new("RGB", (48, 16), "red")
    wide.paste("blue", (16, 0, 32, 16))
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    turned = Image.new("RGB", (32, 16), "green")
    turned.paste("yellow", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right: what is left goes up
    images = [encoded(wide), encoded(clear), encoded(turned, "PNG", exif=exif)]
    write_parquet(tmp_path / "a.parquet", images, ["a", "b", "c"])
    centre, empty, _ = store.images(store.load(make(tmp_path, {"base": 3}), "base"))
    assert (centre == (0, 0, 255)).all()
    assert (empty == 255).all()
    whole = store.images(store.load(make(tmp_path, {"base": 3}, crop="none", out="whole"), "base"))
    assert whole[0, 8, 1, 0] > 200 > whole[0, 8, 8, 0]
    assert whole[2, 2, 8].tolist() == [255, 255, 0]
    assert whole[2, 13, 8].tolist() == [0, 128, 0]


def test_a_resized_image_has_no_aliases(tmp_path):
    """Stripes finer than the new pixels become grey; an image of the size asked for stays as it is."""
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pair = [encoded(Image.fromarray(each)) for each in (stripes, noise)]
    write_parquet(tmp_path / "a.parquet", pair, ["a", "b"])
    manifest = make(tmp_path, {"base": 2})
    small, same = store.images(store.load(manifest, "base"))
    assert np.abs(small[:, 1:-1].astype(int) - 127).max() <= 1
    assert (same == noise).all()
    assert "bicubic" in artifacts.read_json(manifest)["about"]["base"]["resize"]


def write_folder(root, rows, kind="csv"):
    folder = root / "photos"
    (folder / "deep").mkdir(parents=True)
    for i in range(4):
        (folder / f"deep/red_{i}.png").write_bytes(plain(i))
    if kind == "csv":
        with open(folder / "metadata.csv", "w", newline="") as file:
            csv.writer(file).writerows([["file_name", "words"], *rows])
    elif kind == "jsonl":
        lines = [json.dumps({"file_name": name, "words": text}) for name, text in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_takes_captions_from_its_metadata(tmp_path, kind):
    rows = [("deep/red_2.png", 'a "red", second one'), ("deep/gone.png", "second one"), ("deep/red_0.png", "first")]
    write_folder(tmp_path, rows, kind)
    manifest = make(tmp_path, {"base": 3}, "imagefolder", bad_items=1)
    assert items(manifest, "base") == [2, 0]
    assert store.load(manifest, "base")["text"][:] == ['a "red", second one', "first"]
    assert artifacts.read_json(manifest)["skipped"]["base"] == [{"name": "deep/gone.png", "why": "no image"}]
    assert artifacts.read_json(manifest)["words"] == ['"', '",', "a", "first", "one", "red", "second"]


def test_a_folder_takes_captions_from_file_names(tmp_path):
    write_folder(tmp_path, [], "none")
    manifest = make(tmp_path, {"base": 4}, "imagefolder", captions_from="names")
    assert store.load(manifest, "base")["text"][:] == [f"red {i}" for i in range(4)]


@pytest.mark.parametrize(("changes", "message"), [
    ({"columns": {"image": "photo", "caption": "words"}}, r"no column 'photo'; there are picture, words"),
    ({"columns": {"image": "picture", "caption": "text"}}, r"no column 'text'; there are picture, words"),
    ({"columns": {"image": "words", "caption": "words"}}, r"'words' holds string; images are bytes"),
    ({"files": ["none/*.parquet"]}, r"no such file; relative paths start at the repository"),
    ({"files": ["broken.bin"]}, r"not readable Parquet"),
    ({"hold_out": {"column": "words", "groups": 2}}, r"hold_out: 2 groups asked for, .* has 2"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, changes, message):
    write_parquet(tmp_path / "a.parquet", [plain(0), plain(1)], ["a", "b"])
    (tmp_path / "broken.bin").write_bytes(b"PAR1 is not enough")
    with pytest.raises(PerflowError, match=message):
        make(tmp_path, {"base": 2}, **changes)


def test_a_folders_mistakes_are_one_line(tmp_path):
    write_folder(tmp_path, [], "none")
    with pytest.raises(PerflowError, match="metadata.csv or metadata.jsonl, and neither is there"):
        make(tmp_path, {"base": 1}, "imagefolder")
    for name, message in (("../secret.png", "not below its folder"), ("/etc/passwd", "not below its folder")):
        (tmp_path / "photos/metadata.jsonl").write_text(json.dumps({"file_name": name, "words": "x"}))
        with pytest.raises(PerflowError, match=message):
            make(tmp_path, {"base": 1}, "imagefolder")


@pytest.fixture
def by_command(root, tmp_path):
    """Fetch from the hub as the rules do: by the command, in an environment that names the server."""

    def run(environment, hub="some/photos", count=5, **changes):
        place = {"hub": hub, "revision": COMMIT, "name": None, "splits": "train"}
        own = {key: value for key, value in settings().items() if key != "files"} | place | changes
        row = {"dataset": "own", "source": "hub", "settings": own, "counts": {"base": count}}
        spec = {"table": "splits", "name": "own-base", "seed": 0, "row": row, "fingerprint": ""}
        artifacts.write_json(tmp_path / "spec.json", spec)
        command = [sys.executable, "-m", "perflow", "fetch", "--spec", "spec.json", "--out", "out/manifest.json"]
        environment = environment | {"PYTHONPATH": str(root)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def test_a_data_set_of_the_hub_is_fetched_at_its_commit(tmp_path, by_command):
    (tmp_path / "repository/data").mkdir(parents=True)
    chosen = range(8)
    file = tmp_path / "repository/data/train-00000-of-00001.parquet"
    write_parquet(file, [plain(i) for i in chosen], [f"item {i}" for i in chosen])
    with serve(tmp_path / "repository", "some/photos", tmp_path / "cache", "dataset") as hub:
        done = by_command(hub.environment)
        assert done.returncode == 0, done.stderr
        manifest = tmp_path / "out/manifest.json"
        assert store.load(manifest, "base")["text"][:] == [f"item {i}" for i in items(manifest, "base")]
        assert artifacts.read_json(manifest)["about"]["base"]["read"][0]["revision"] == COMMIT
        assert any(path.endswith(f"{COMMIT}/data/{file.name}") for path in hub.asked)
        done = by_command(hub.environment, "some/other")
        assert done.returncode == 1
        assert f"some/other@{COMMIT}: cannot be fetched from the hub" in done.stderr
        assert "check its name" in done.stderr
        assert "Traceback" not in done.stderr
        (tmp_path / "out/manifest.json").unlink()
        before = len(hub.asked)
        done = by_command(hub.environment | {"HF_HUB_OFFLINE": "1"})
        assert done.returncode == 0, done.stderr
        assert len(hub.asked) == before


def test_a_folder_of_images_on_the_hub_is_read_by_its_metadata(tmp_path, by_command):
    write_folder(tmp_path / "repository", [(f"deep/red_{i}.png", f"item {i}") for i in range(4)])
    (tmp_path / "repository/photos").rename(tmp_path / "repository/train")
    with serve(tmp_path / "repository", "some/photos", tmp_path / "cache", "dataset") as hub:
        done = by_command(hub.environment, count=4, columns={"image": "image", "caption": "words"})
    assert done.returncode == 0, done.stderr
    manifest = tmp_path / "out/manifest.json"
    assert store.load(manifest, "base")["text"][:] == [f"item {i}" for i in items(manifest, "base")]


OWN = {"source": "parquet", "files": ["a.parquet"], "resolution": 16, "counts": {"base": 256, "reference": 64}}


@pytest.mark.parametrize(("changes", "message"), [
    ({"file": "a"}, "datasets.digits.file: unknown key; known here: .*files"),
    ({"counts": {"base": 1}}, "one for base and one for reference"),
    ({"files": {"base": ["a"]}}, "files are for both splits, or base and reference have their own"),
    ({"files": {"base": ["a"], "reference": ["b"]}, "hold_out": {"column": "x", "groups": 1}}, "each has files of its"),
    ({"source": "hub", "hub": "a/b", "revision": "main"}, "datasets.digits"),
    ({"source": "csv"}, "datasets.digits"),
    ({}, "a classifier learns attributes, which 'digits' does not name; use a kind that others trained: squeezenet"),
])  # fmt: skip
def test_a_study_that_cannot_be_is_refused_when_it_is_read(tiny_params, write_params, changes, message):
    tiny_params["datasets"]["digits"] = OWN | changes
    with pytest.raises(PerflowError, match=message) as caught:
        config.load(write_params(tiny_params))
    assert "\n" not in str(caught.value)
