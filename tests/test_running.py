"""Running one stage: alone, complete or absent, with one line when there is no room."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perflow import artifacts, config, record, running
from perflow.cli import main
from perflow.cli.stages import STAGES
from perflow.errors import PerflowError


@pytest.fixture
def home(root, tmp_path, monkeypatch):
    """A folder with the tiny study's specs."""
    config.write_specs(config.load(root / "workflow/studies/tiny.yaml"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_spec_rewritten_meanwhile_leaves_nothing_behind(home):
    spec, out = home / "results/specs/splits/digits-base.json", home / "x/out.json"

    def stage(row: artifacts.Spec, state: object) -> None:
        artifacts.write_json(out, {"made": True})
        artifacts.write_json(spec, artifacts.read_json(spec) | {"seed": 1})

    with pytest.raises(PerflowError, match=r"digits-base.json: was rewritten while fetch ran; nothing was kept"):
        running.run("fetch", spec, stage, [out, out.with_name("cost.json")], None)
    assert not list((home / "x").iterdir())


def test_a_row_is_worked_on_by_one_process(home):
    spec, out = home / "results/specs/splits/digits-base.json", home / "x/out.json"

    def stage(row: artifacts.Spec, state: object) -> None:
        with pytest.raises(PerflowError, match="in use by process"):
            running.run("fetch", spec, lambda row, state: None, [out, out.with_name("other.json")], None)
        artifacts.write_json(out, {"made": True})

    running.run("fetch", spec, stage, [out, out.with_name("cost.json")], None)
    assert artifacts.read_json(out.with_name("cost.json"))["seconds"] >= 0


def test_a_stage_that_fails_names_its_row_to_the_user_and_in_the_log(home):
    """What the loop says of a divergence has a phase and a step; which of many rows it was is added here."""
    spec, out, log = home / "results/specs/students/eps-perflow-k2-s0.json", home / "x/out.json", home / "logs/x.log"

    def stage(row: artifacts.Spec, state: Path) -> None:
        artifacts.write_text(state / "train.safetensors", "of step 11")
        raise PerflowError("train: loss nan, gradient norm nan by step 12 of 23")

    said = "train eps-perflow-k2-s0: train: loss nan, gradient norm nan by step 12 of 23"
    with pytest.raises(PerflowError, match=f"^{said}$"):
        running.run("train", spec, stage, [out, out.with_name("cost.json")], log)
    assert log.read_text().splitlines() == [said]
    assert [path.read_text() for path in (home / "results/state").rglob("train.safetensors")] == ["of step 11"]


def test_a_device_without_room_says_what_takes_less(home):
    from torch import OutOfMemoryError

    spec, log = home / "results/specs/pairs/eps-fixed-k2.json", home / "a.log"

    def stage(row, state):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")

    with pytest.raises(
        PerflowError, match=r"^cache eps-fixed-k2: the device has no room \(CUDA .*3 GiB.\); a training"
    ):
        running.run("cache", spec, stage, [home / "out.json", home / "cost.json"], log)
    assert "--accumulate" in log.read_text()


def test_the_record_holds_what_was_read_and_made(home):
    spec, out, read = home / "results/specs/splits/digits-base.json", home / "x/manifest.json", home / "in.txt"
    read.write_text("input")

    def stage(row: artifacts.Spec, state: object) -> dict:
        artifacts.write_text(out.with_name("part.bin"), "1234")
        sha256 = artifacts.sha256_file(out.with_name("part.bin"))
        artifacts.write_json(out, {"parts": [{"file": "part.bin", "sha256": sha256}]})
        artifacts.write_text(out.with_name("stray.bin"), "not made by this row")
        return {"teacher_evaluations": 7}

    cost = out.with_name("cost.json")
    running.run("fetch", spec, stage, [out, cost], None, inputs=[read])
    content = record.read(cost)
    assert content["inputs"] == {read.as_posix(): artifacts.sha256_file(read)}
    assert content["outputs"] == {"manifest.json": artifacts.sha256_file(out)}
    assert content["spec"] == artifacts.read_spec(spec).hash
    assert content["teacher_evaluations"] == 7
    assert record.files(cost, content) == [out, out.with_name("part.bin")]
    assert content["bytes"] == 4 + out.stat().st_size


@pytest.mark.parametrize("verb", STAGES)
def test_every_file_that_a_verb_is_given_is_an_input_of_its_record(verb, home, monkeypatch):
    """An optional one too: work that was begun on another is not resumed, and verify calls it stale."""
    read = []
    monkeypatch.setattr(running, "run", lambda *given: read.extend(given[5]))
    options = [*STAGES[verb].inputs, *STAGES[verb].optional]
    given = [part for name in options for part in (f"--{name}", f"{name}.json")]
    spec = home / "results/specs/splits/digits-base.json"
    main([verb, "--spec", str(spec), "--out", "out.json", "--device", "cpu", *given], standalone_mode=False)
    assert read == [Path(f"{name}.json") for name in options]


def test_progress_says_which_row_which_step_and_the_time_left(home, capsys, monkeypatch):
    from perflow.loop import Step

    monkeypatch.setattr(running, "_EVERY", 0)
    reporter = running.Reporter("train x-k4-s0", home / "logs/x.log")
    for step in (1, 2, 4):
        reporter.step(Step("train", step, 4, loss=0.5))
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train x-k4-s0 · train 2/4 · loss 0\.5 · \d+ s left", lines[1])
    assert lines[-1] == "train x-k4-s0 · train 4/4 · loss 0.5"
    assert (home / "logs/x.log").read_text().splitlines() == lines


def test_no_room_is_one_line_and_leaves_nothing_half_written(home, root):
    done = subprocess.run(
        [sys.executable, "-m", "perflow", "fetch", "--spec", "results/specs/splits/digits-base.json",
         "--out", "data/digits-base/manifest.json"],
        cwd=home, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "make room" in done.stderr.splitlines()[-1]
    assert not [path for path in (home / "data").rglob("*") if path.is_file()]


def test_a_log_without_room_hides_nothing(home, capsys):
    """Every write to /dev/full fails; what the stage has to say is still said, and what it made is kept."""
    spec, out = home / "results/specs/splits/digits-base.json", home / "x/out.json"

    def failing(row: artifacts.Spec, state: Path) -> None:
        raise PerflowError("what went wrong")

    with pytest.raises(PerflowError, match="^fetch digits-base: what went wrong$"):
        running.run("fetch", spec, failing, [out, out.with_name("cost.json")], Path("/dev/full"))
    running.run("fetch", spec, lambda row, state: artifacts.write_json(out, 1), [out, out.with_name("cost.json")],
                Path("/dev/full"))  # fmt: skip
    assert "fetch digits-base · done in" in capsys.readouterr().err
    assert record.read(out.with_name("cost.json"))["outputs"]


def test_a_ctrl_c_that_a_library_makes_an_error_of_is_still_one(root, tmp_path):
    """Modules in C cannot be imported a second time: who is stopped while numpy is, hears of an ImportError."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "except KeyboardInterrupt:\n    raise ImportError('cannot load module more than once per process') from None\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    spec = {"table": "bases", "name": "b", "seed": 0, "row": {}}
    (tmp_path / "spec.json").write_text(artifacts.dumps(spec))
    for name in ("d", "o"):
        (tmp_path / f"{name}.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "perflow", "base", "--spec", "spec.json", "--dataset", "d.json", "--out", "o.json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background is deaf
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "perflow: stopped; the same command goes on from here\n")


def test_a_dry_run_prints_the_resolved_row_and_writes_nothing(home):
    done = subprocess.run(
        [sys.executable, "-m", "perflow", "train", "--spec", "results/specs/students/eps-perflow-k2-s0.json",
         "--start", "b", "--pairs", "p", "--out", "o/x.safetensors", "--dry-run"],
        cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert '"edges": [' in done.stdout
    assert '"steps": 20' in done.stdout
    assert not (home / "o").exists()
    assert "torch" not in done.stderr


def test_light_verbs_import_no_torch(root):
    code = "import sys, perflow, perflow.cli, perflow.config; print('torch' in sys.modules or 'mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    code = "import sys; from perflow import config;config.plan(config.load(sys.argv[1])); print('torch' in sys.modules)"
    arguments = [sys.executable, "-c", code, str(root / "params.yaml")]
    done = subprocess.run(arguments, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_help_shows_every_verb_once():
    from click.testing import CliRunner

    from perflow.cli import main

    shown = CliRunner().invoke(main, ["--help"]).output
    for verb in main.commands:
        assert shown.count(f"\n  {verb} ") == 1, verb
