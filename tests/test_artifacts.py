"""Files are complete or absent, keep their bytes, and name themselves when they are broken."""

import json
import os
import subprocess
import sys

import pytest
import torch

from perflow import artifacts
from perflow.errors import PerflowError
from tests.workflow import faults

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2], dtype=torch.int32)}
HEADER = {"z": 1, "a": {"windows": [1.0, 0.0]}, "m": "text"}


def test_tensors_and_header_come_back(tmp_path):
    artifacts.write_tensors(tmp_path / "x.safetensors", TENSORS, HEADER)
    tensors, header = artifacts.read_tensors(tmp_path / "x.safetensors")
    assert header == HEADER == artifacts.read_header(tmp_path / "x.safetensors")
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_bytes_are_the_same_in_every_process(tmp_path):
    """Python's string hashing differs from process to process; the files must not."""
    code = (
        "import sys, torch; from perflow import artifacts as a;"
        "a.write_tensors(sys.argv[1], {n: torch.ones(2) for n in 'qwertyuiop'}, {n: 1 for n in 'asdfghjkl'});"
        "a.write_archive(sys.argv[2], {n: n.encode() for n in 'zxcvbnm'})"
    )
    found = set()
    for seed in ("1", "2"):
        files = [str(tmp_path / f"{seed}.safetensors"), str(tmp_path / f"{seed}.zip")]
        subprocess.run([sys.executable, "-c", code, *files], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
        found.add(tuple(artifacts.sha256_file(file) for file in files))
    assert len(found) == 1


def test_the_content_hash_sees_names_shapes_dtypes_and_values_but_not_order():
    same = artifacts.tensor_hash(TENSORS)
    assert artifacts.tensor_hash(dict(reversed(TENSORS.items()))) == same
    others = [
        {"b": TENSORS["b"]},
        {"c": TENSORS["b"], "a": TENSORS["a"]},
        {"b": TENSORS["b"].reshape(3, 2), "a": TENSORS["a"]},
        {"b": TENSORS["b"].to(torch.float64), "a": TENSORS["a"]},
        {"b": TENSORS["b"] + 1e-6, "a": TENSORS["a"]},
    ]
    assert len({same, *map(artifacts.tensor_hash, others)}) == len(others) + 1


WRITERS = """
import resource, signal, sys, torch
from pathlib import Path
from perflow import artifacts, images
from perflow.datasets import store
from tokenizers import Tokenizer, models
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
rows = [{"image": bytes(5000), "text": "a", "label_a": 0, "a": "b"}]
for name, write in {
    "a.txt": lambda path: artifacts.write_text(path, "x" * 5000),
    "a.json": lambda path: artifacts.write_json(path, ["x"] * 5000),
    "a.zip": lambda path: artifacts.write_archive(path, {"a": bytes(5000)}),
    "a.safetensors": lambda path: artifacts.write_tensors(path, {"a": torch.zeros(5000)}, {}),
    "a.parquet": lambda path: store.write(path, rows, ["a"]),
    "tokenizer": lambda path: Tokenizer(models.BPE(vocab={str(i): i for i in range(500)}, merges=[])).save(str(path)),
}.items():
    try:
        with artifacts.writing(Path(sys.argv[1], name)):
            write(Path(sys.argv[1], name))
    except artifacts.PerflowError as error:
        print(error)
"""


def test_whoever_writes_what_there_is_no_room_for_the_file_is_named(tmp_path):
    names = ["a.txt", "a.json", "a.zip", "a.safetensors", "a.parquet"]
    for name in names:  # the tokenizer's is no writer of ours: it is the text of its refusal that counts
        (tmp_path / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", WRITERS, tmp_path], capture_output=True, text=True, check=True)
    for name, line in zip([*names, "tokenizer"], done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{tmp_path / name}: cannot be written ("), line
        assert line.endswith("); make room or allow writing there, and run the same command again")
    (tmp_path / "tokenizer").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert {(tmp_path / name).read_text() for name in names} == {"old"}


def test_a_folder_that_may_not_be_removed_is_not_taken_for_removed(tmp_path):
    """A stage that makes its folder anew would stumble over the old one, which says nothing of the reason."""
    (tmp_path / "there").mkdir()
    artifacts.remove_folder(tmp_path / "there")
    artifacts.remove_folder(tmp_path / "there")
    assert not (tmp_path / "there").exists()
    if command := faults.unshare():
        (tmp_path / "kept" / "inside").mkdir(parents=True)
        script = 'mount --bind "$1" "$1"; mount --options remount,bind,ro "$1"; exec "$2" -c "$3" "$1/inside"'
        code = "import sys; from pathlib import Path; from perflow import artifacts, errors\n" \
               "try: artifacts.remove_folder(Path(sys.argv[1]))\n" \
               "except OSError as error: print(errors.refused(error), error.filename)"  # fmt: skip
        done = subprocess.run(
            [*command, "bash", "-c", script, "-", tmp_path / "kept", sys.executable, code],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == ["True", str(tmp_path / "kept" / "inside")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    artifacts.write_json(path, {"old": 1})

    def fail() -> None:
        with artifacts.atomic(path) as temporary:
            temporary.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert artifacts.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
@pytest.mark.parametrize("kind", ["safetensors", "json", "zip"])
def test_a_broken_file_is_named_and_never_read(kind, damage, tmp_path):
    path = tmp_path / f"x.{kind}"
    write = {"safetensors": lambda: artifacts.write_tensors(path, TENSORS, HEADER),
             "json": lambda: artifacts.write_json(path, HEADER),
             "zip": lambda: artifacts.write_archive(path, {"a": b"content" * 9})}  # fmt: skip
    write[kind]()
    sha256 = artifacts.sha256_file(path)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-3])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"")
    with pytest.raises(PerflowError) as caught:
        artifacts.verify_file(path, sha256, made_by="manifest.json")
    assert str(path) in str(caught.value)
    assert "delete manifest.json and run again" in str(caught.value)
    read = {"safetensors": artifacts.read_tensors, "json": artifacts.read_json, "zip": artifacts.read_archive}[kind]
    if damage != "flip":  # a flipped bit is what the hash is for; everything else the reader sees itself
        with pytest.raises(PerflowError, match=f"x.{kind}"):
            read(path)


def test_json_has_one_form(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    artifacts.write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "c.json", {"x": float("nan")})
    assert not (tmp_path / "c.json").exists()


def test_a_spec_is_known_by_its_content(tmp_path):
    spec = {"table": "pairs", "name": "x", "seed": 0, "row": {"a": 1}, "fingerprint": "f"}
    artifacts.write_json(tmp_path / "spec.json", spec)
    (tmp_path / "other.json").write_text(json.dumps(spec))
    assert artifacts.read_spec(tmp_path / "spec.json") == artifacts.read_spec(tmp_path / "other.json")
    artifacts.write_json(tmp_path / "not.json", {"row": 1})
    with pytest.raises(PerflowError, match=r"not\.json: not a perflow spec"):
        artifacts.read_spec(tmp_path / "not.json")


def test_a_folder_is_held_by_one_process_and_freed_when_it_dies(tmp_path):
    code = (
        "import sys, time; from perflow import artifacts;"
        "l = artifacts.locked(sys.argv[1]); l.__enter__(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(PerflowError, match=f"in use by process {holder.pid}"), artifacts.locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with artifacts.locked(tmp_path):
        pass


def test_what_a_killed_writer_of_an_archive_left_is_removed_by_the_next_one(tmp_path):
    script = (
        "import os, signal, sys\n"
        "from perflow import artifacts\n"
        "with artifacts.archiving(sys.argv[1]) as add:\n"
        "    add('a', bytes(5000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    other = tmp_path / ".b.zip.1.tmp"
    other.write_bytes(b"another's")
    path = tmp_path / "a.zip"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, str(path)], check=False)
        assert len(list(tmp_path.glob(".a.zip.*.tmp"))) == 1
    artifacts.write_archive(path, {"a": b"content"})
    assert sorted(tmp_path.iterdir()) == [other, path]
