"""Whatever stands in a file, the doors of the package read it or refuse it in one line that names it.

``pytest tests/keeping/test_doors.py --hypothesis-profile campaign`` tries thousands of new files.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perflow import artifacts, keeping, record
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics.observed import Drawn
from perflow.models import handle
from perflow.pairs import PairCache
from perflow.stages.evaluate import evaluate
from perflow.stages.export import export
from tests.fuzzing import mutate
from tests.keeping.conftest import BASE, DATA, PAIRS, REAL, STUDENT

SHARDS, SAMPLES = Path(f"results/pairs/{PAIRS}"), Path(f"results/samples/{STUDENT}")
DELTA = Path(f"results/students/{STUDENT}/delta.safetensors")
EXAMPLES = settings().max_examples
slow = settings(max_examples=max(20, EXAMPLES // 20))


@pytest.fixture(scope="module")
def home(made_once, tmp_path_factory) -> Path:
    """A copy that examples damage and mend, as the working directory."""
    folder = tmp_path_factory.mktemp("doors") / "home"
    shutil.copytree(made_once, folder)
    with contextlib.chdir(folder):
        yield folder


@contextlib.contextmanager
def mended(*paths: Path):
    """Whatever is done to files below these folders, or to these files, is undone."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    sound = {path: path.read_bytes() for path in files}
    try:
        yield
    finally:
        for path, data in sound.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def knock(door: Callable[[], Any], names: Path) -> None:
    """Open a door: it opens, or one line names the file or something below its folder."""
    try:
        door()
    except PerflowError as error:
        refusal = str(error)
    else:
        return
    assert refusal.isprintable()
    assert str(names.parent) in refusal


def edited(path: Path, data: st.DataObject) -> Any:
    """A JSON file's content after a few edits."""
    content = copy.deepcopy(artifacts.read_json(path))
    for _ in range(data.draw(st.integers(1, 3))):
        if content:
            mutate(content, data.draw)
    return content


def put(path: Path, content: Any) -> None:
    """As careless software writes it: NaN, any key, half a character."""
    path.write_bytes(json.dumps(content, default=str).encode("utf-8", "surrogatepass"))


def corrupted(sound: bytes, data: st.DataObject) -> bytes:
    """Bytes removed, doubled or replaced, mostly in the beginning, where headers are."""
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.one_of(st.integers(0, min(len(sound), 400)), st.integers(0, len(sound))))
        end = start + data.draw(st.sampled_from([0, 1, 1, 8, 100, 10**6]))
        piece = data.draw(st.one_of(st.binary(max_size=9), st.just(sound[start:end] * 2)))
        sound = sound[:start] + piece + sound[end:]
    return sound


def read_spec_and_state(path: Path) -> None:
    record.state(artifacts.read_spec(path), {}).relative_to("results/state")


MANIFESTS = {
    "dataset": (Path(DATA), lambda: [store.split_files(DATA, split) for split in store.manifest(DATA)["files"]]),
    "base's handle": (Path(BASE), lambda: handle.network_tensors(Path(BASE))),
    "pairs": (SHARDS / "manifest.json", lambda: PairCache.load(SHARDS / "manifest.json")),
    "samples": (SAMPLES / "manifest.json", lambda: Drawn.read(SAMPLES / "manifest.json")),
    "record": (SHARDS / "cost.json", lambda: record.read(SHARDS / "cost.json")),
    "spec": (Path(f"results/specs/pairs/{PAIRS}.json"),
             lambda: read_spec_and_state(Path(f"results/specs/pairs/{PAIRS}.json"))),
}  # fmt: skip


@pytest.mark.parametrize("kind", MANIFESTS)
@given(data=st.data())
def test_an_edited_manifest_is_read_or_named(kind, home, data):
    path, door = MANIFESTS[kind]
    with mended(path):
        put(path, edited(path, data))
        knock(door, path)
        knock(lambda: record.named(path), path)


@given(data=st.data())
def test_any_bytes_in_place_of_json_are_read_or_named(home, data):
    path = SHARDS / "manifest.json"
    with mended(path):
        path.write_bytes(data.draw(st.one_of(st.just(corrupted(path.read_bytes(), data)), st.binary())))
        for door in (artifacts.read_json, artifacts.read_jsonl, artifacts.read_spec, record.read, record.named):
            knock(lambda door=door: door(path), path)


@given(data=st.data())
def test_any_bytes_in_place_of_tensors_are_read_or_named(home, data):
    with mended(DELTA):
        DELTA.write_bytes(corrupted(DELTA.read_bytes(), data))
        knock(lambda: artifacts.read_header(DELTA), DELTA)
        knock(lambda: artifacts.read_tensors(DELTA), DELTA)


@given(data=st.data())
def test_any_bytes_in_place_of_an_archive_are_read_or_named(home, data):
    path = SAMPLES / "window-2.zip"
    with mended(path):
        path.write_bytes(corrupted(path.read_bytes(), data))
        knock(lambda: artifacts.read_archive(path), path)


@slow
@given(data=st.data())
def test_a_corrupted_split_with_a_right_hash_is_read_or_named(home, data):
    path, manifest = Path("data/digits-reference/reference.parquet"), Path(REAL)
    with mended(path, manifest):
        path.write_bytes(corrupted(path.read_bytes(), data))
        content = artifacts.read_json(manifest)
        content["files"]["reference"][0]["sha256"] = artifacts.sha256_file(path)
        artifacts.write_json(manifest, content)
        knock(lambda: store.images(store.load(manifest, "reference")), path)


TENSORS = st.sampled_from([
    torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(4, 2), torch.zeros(64, 4, 8, 8, dtype=torch.float64),
    torch.full((64,), -1, dtype=torch.int32), torch.full((64,), 10**6, dtype=torch.int32), torch.zeros(64),
    torch.zeros(64, dtype=torch.int64), torch.zeros(64, dtype=torch.bool), torch.full((64, 4, 8, 8), torch.nan),
    torch.zeros(64, 4, 8, 8, dtype=torch.complex64), torch.zeros(2, 2, dtype=torch.bfloat16),
])  # fmt: skip


@given(data=st.data())
def test_a_cache_of_other_tensors_with_right_hashes_can_be_drawn_from_or_is_named(home, data):
    manifest = SHARDS / "manifest.json"
    content = artifacts.read_json(manifest)
    with mended(SHARDS):
        entry = data.draw(st.sampled_from([*content["shards"], content["conditions"]]))
        path = SHARDS / entry["file"]
        tensors, header = artifacts.read_tensors(path)
        name = data.draw(st.sampled_from([*tensors, "another"]))
        if data.draw(st.booleans()):
            tensors.pop(name, None)
        else:
            tensors[name] = data.draw(TENSORS)
        artifacts.write_tensors(path, tensors, header | {"sha256": artifacts.tensor_hash(tensors)})
        entry["sha256"] = artifacts.sha256_file(path)
        artifacts.write_json(manifest, content)

        def draw() -> None:
            pairs = PairCache.load(manifest)
            batch = pairs.batch(torch.arange(len(pairs)))
            assert batch.start.shape == batch.end.shape
            assert all(len(value) == len(pairs) for value in batch.condition.values())

        knock(draw, manifest)


@slow
@given(data=st.data())
def test_a_student_of_an_edited_handle_or_header_is_loaded_or_named(home, data):
    path = Path(f"results/students/{STUDENT}/model.json")
    with mended(path, DELTA):
        if data.draw(st.booleans()):
            put(path, edited(path, data))
        else:
            tensors, header = artifacts.read_tensors(DELTA)
            mutate(header, data.draw)
            artifacts.write_tensors(DELTA, tensors, json.loads(json.dumps(header, default=str)))
        # A student's handle may name files anywhere below results/.
        knock(lambda: handle.load(path), Path("results/any"))


@slow
@given(data=st.data())
def test_the_stages_name_an_edited_input(home, data):
    """evaluate and export read the most files; what they are given is edited, and hashes are made right again."""
    which = data.draw(st.sampled_from(["samples", "base", "extractor"]))
    metrics = artifacts.read_spec(f"results/specs/evaluations/{STUDENT}.json")
    inputs = {"samples": SAMPLES / "manifest.json", "teacher": Path("results/samples/eps/manifest.json"),
              "dataset": Path(REAL), "extractor": Path("results/extractors/cnn/extractor.safetensors")}  # fmt: skip
    with mended(Path(BASE), *inputs.values()):
        if which == "extractor":
            tensors, header = artifacts.read_tensors(inputs["extractor"])
            mutate(header, data.draw)
            artifacts.write_tensors(inputs["extractor"], tensors, json.loads(json.dumps(header, default=str)))
        else:
            path = Path(BASE) if which == "base" else inputs["samples"]
            put(path, edited(path, data))
        if which == "base":
            spec, weights = (
                artifacts.read_spec(f"results/specs/deltas/{STUDENT}.json"),
                DELTA.with_name("ema.safetensors"),
            )
            student = Path(f"results/specs/students/{STUDENT}.json")
            knock(lambda: export(spec, student, weights, Path(BASE), home / "x/delta.safetensors"), Path("results/any"))
        else:
            knock(lambda: list(evaluate(metrics, **inputs, out=home / "x.json")), Path("results/any"))


@given(data=st.data())
@settings(max_examples=max(20, EXAMPLES // 10))
def test_verify_and_clean_never_stumble(home, made_once, data):
    from perflow import config

    study = config.load("params.yaml")
    files = sorted(path for path in Path("results").rglob("*.json") if "specs" not in path.parts)
    path = data.draw(st.sampled_from(files))
    with mended(path):
        if data.draw(st.booleans()):
            put(path, edited(path, data))
        else:
            path.write_bytes(corrupted(path.read_bytes(), data))
        states = {finding.state for finding in keeping.verify(study, Path("."))}
        assert states <= set(keeping.STATES)
        keeping.leftovers(study, Path("."))
        list(keeping.compare(study, Path("."), made_once / "results"))


def members(**files: bytes) -> bytes:
    """A zip with members of any name, stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_reading_an_archive_writes_nothing_and_expands_nothing(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    path = Path("a.zip")
    path.write_bytes(members(**{"../escaped.png": b"1", "/tmp/absolute.png": b"2", "x/../../up.png": b"3"}))
    assert sorted(artifacts.read_archive(path).values()) == [b"1", b"2", b"3"]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip", "inside"]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(10**7))  # 10 kB of zip
    with pytest.raises(PerflowError, match=r"a\.zip: not a readable archive \(it expands to more than 100 times"):
        artifacts.read_archive(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("modest.png", bytes(range(256)) * 40)
    assert artifacts.read_archive(path) == {"modest.png": bytes(range(256)) * 40}


def test_a_manifest_cannot_point_outside_its_folder(home):
    manifest = SHARDS / "manifest.json"
    for name in ("../../../data/digits-base/manifest.json", str(home / DATA), "/etc/passwd"):
        with mended(manifest):
            content = artifacts.read_json(manifest)
            content["shards"][0] = {"file": name, "sha256": artifacts.sha256_file(DATA)}
            artifacts.write_json(manifest, content)
            with pytest.raises(PerflowError, match="which is not below its folder"):
                PairCache.load(manifest)


def test_a_student_whose_base_is_a_student_is_refused(home):
    path = Path(f"results/students/{STUDENT}/model.json")
    with mended(path):
        artifacts.write_json(path, artifacts.read_json(path) | {"base": "model.json"})
        with pytest.raises(PerflowError, match="is a student, and must be a base"):
            handle.load(path)
