"""Training learns, resumes exactly, refuses foreign pairs; what is exported is what was trained."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.models import handle
from perflow.pairs import PairCache
from perflow.stages import train as stage
from tests.stages.conftest import cost, finish

STUDENT, PAIRS = "eps-perflow-k2-s0", "eps-fixed-k2"


def test_interrupted_training_ends_with_the_same_bytes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "Loop", lambda *a: Loop(*a, save_seconds=0))
    from perflow.loop import Loop

    done = tiny.handle(STUDENT).with_name("ema.safetensors")
    out, state = tmp_path / "s/ema.safetensors", tmp_path / "state"
    arguments = tiny.spec("students", STUDENT), tiny.handle("eps"), tiny.pairs(PAIRS), out, state
    for step in stage.train(*arguments):
        if step.step == 9:
            break
    assert not out.exists()
    resumed = list(stage.train(*arguments))
    assert resumed[0].step > 9 - 1
    assert out.read_bytes() == done.read_bytes()
    assert out.with_name("curve.jsonl").read_bytes() == done.with_name("curve.jsonl").read_bytes()


def test_two_processes_teach_the_same_student_in_passes_and_the_row_does_not_know(tiny, root, tmp_path):
    """The command itself: one record, one writer, the curve and the weights of one process up to rounding."""
    out, done = tmp_path / "two/ema.safetensors", tiny.handle(STUDENT).with_name("ema.safetensors")
    given = {"spec": f"results/specs/students/{STUDENT}.json", "start": "results/bases/eps/model.json",
             "pairs": f"results/pairs/{PAIRS}/manifest.json", "out": out}  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "perflow", "train", "--device", "cpu", "--processes", "2", "--accumulate", "2",
         *(word for name, value in given.items() for word in (f"--{name}", str(value)))],
        cwd=tiny.home, env={**os.environ, "PYTHONPATH": str(root)}, check=True,
    )  # fmt: skip
    record = artifacts.read_json(out.with_name("cost.json"))
    assert (record["processes"], record["spec"]) == (2, tiny.spec("students", STUDENT).hash)
    ours, theirs = (artifacts.read_jsonl(path.with_name("curve.jsonl")) for path in (out, done))
    for name in ("step", "lr", "loss", "grad_norm"):
        assert [point[name] for point in ours] == pytest.approx([point[name] for point in theirs], rel=1e-4)
    two, one = (artifacts.read_tensors(path)[0] for path in (out, done))
    assert apart(two, one) < 0.01 * apart(one, handle.load(tiny.handle("eps")).unet.state_dict())


def apart(first: dict, second: dict) -> float:
    """Distance of two networks, all weights together."""
    return float(sum((value - second[name]).square().sum() for name, value in first.items()).sqrt())


def test_checkpointing_keeps_less_and_teaches_the_same(tiny, tmp_path):
    kept = {}
    for checkpointing in (False, True):
        out = tmp_path / str(checkpointing) / "ema.safetensors"
        arguments = tiny.spec("students", STUDENT), tiny.handle("eps"), tiny.pairs(PAIRS), out, out.parent / "state"
        kept[checkpointing] = cost(stage.train(*arguments, checkpointing=checkpointing))["activation_mib"]
    assert kept[True] < 0.6 * kept[False]
    plain, again = (artifacts.read_tensors(tmp_path / name / "ema.safetensors")[0] for name in ("False", "True"))
    assert apart(again, plain) < 0.01 * apart(plain, handle.load(tiny.handle("eps")).unet.state_dict())


def test_pairs_of_another_base_are_refused(tiny, tmp_path):
    shutil.rmtree(tiny.handle("eps").parent)
    shutil.copytree(tiny.handle("v").parent, tiny.handle("eps").parent)
    with pytest.raises(PerflowError, match=r"manifest.json: made on another base \(eps.* of the model .v."):
        finish(
            stage.train(
                tiny.spec("students", STUDENT), tiny.handle("eps"), tiny.pairs(PAIRS), tmp_path / "x", tmp_path / "s"
            )
        )


def test_pairs_of_other_windows_are_refused(tiny, tmp_path):
    manifest = artifacts.read_json(tiny.pairs(PAIRS))
    artifacts.write_json(tiny.pairs(PAIRS), manifest | {"edges": [1.0, 0.3, 0.0]})
    with pytest.raises(
        PerflowError, match=r"pairs of the windows \[1.0, 0.3, 0.0\], the student has \[1.0, 0.5, 0.0\]"
    ):
        finish(
            stage.train(
                tiny.spec("students", STUDENT), tiny.handle("eps"), tiny.pairs(PAIRS), tmp_path / "x", tmp_path / "s"
            )
        )


@pytest.mark.parametrize(("student", "base"), [(STUDENT, "eps"), ("v-distilled-k2-s0", "v")])
def test_base_plus_delta_is_the_student(tiny, student, base):
    trained, _ = artifacts.read_tensors(tiny.handle(student).with_name("ema.safetensors"))
    loaded = handle.load(tiny.handle(student))
    for name, value in loaded.unet.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=1e-6, atol=1e-7)
    _, header = artifacts.read_tensors(tiny.handle(student).with_name("delta.safetensors"))
    assert header["base"]["sha256"] == handle.load(tiny.handle(base)).sha256
    assert header["edges"] == [1.0, 0.5, 0.0]
    assert loaded.flow.base_prediction == {"eps": "epsilon", "v": "v"}[base]


def test_the_student_moved_from_its_base_towards_the_pairs(tiny):
    """On the pairs themselves the trained student errs less than the base it started from."""
    from perflow.core.learner import Learner

    student, base = handle.load(tiny.handle("v-distilled-k2-s0")), handle.load(tiny.handle("v"))
    pairs = PairCache.load(tiny.pairs("v-path-k2"))
    batch = pairs.batch(torch.arange(len(pairs)))

    def error(model: handle.Model) -> float:
        says = Learner(model.base.network(model.unet), student.flow).says(
            batch.start, batch.k, batch.k * 0.0, batch.condition
        )
        return float((says - student.flow.target(batch.start, batch.end, batch.k)).square().mean())

    with torch.no_grad():
        assert error(student) < error(base)


def test_an_altered_delta_is_refused_by_name(tiny):
    path = tiny.handle(STUDENT).with_name("delta.safetensors")
    tensors, header = artifacts.read_tensors(path)
    name = next(iter(tensors))
    artifacts.write_tensors(path, tensors | {name: tensors[name] + 1}, header)
    with pytest.raises(PerflowError, match=r"delta.safetensors: altered"):
        handle.load(tiny.handle(STUDENT))
