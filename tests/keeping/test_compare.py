"""Two results folders of one study: equal, nearly equal, and how far apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perflow import artifacts, keeping, record
from perflow.errors import PerflowError
from tests.keeping.conftest import PAIRS, STUDENT

METRICS = f"metrics/{STUDENT}.json"


@pytest.fixture
def other(made, tmp_path) -> Path:
    """The results folder of another clone."""
    shutil.copytree(made.home / "data", tmp_path / "other/data")
    return Path(shutil.copytree(made.home / "results", tmp_path / "other/results"))


def differences(made, other: Path, **options) -> dict[str, tuple[str, str]]:
    compared = keeping.compare(made.study, Path("."), other, **options)
    return {item.artifact: (item.state, "\n".join(item.lines)) for item in compared}


def rewrite(path: Path, place: Path, change) -> None:
    """Change an output, and its record, as another machine would have made them."""
    change(path)
    content = record.read(place)
    record.write(place, content["spec"], content["inputs"], record.outputs(place, content))


def move(path: Path, apart: float) -> None:
    """Move one metric by ``apart`` half widths of its interval."""
    content = artifacts.read_json(path)
    metric = content["trials"]["window-2"]["metrics"]["fd_teacher"]
    metric["value"] += apart * (metric["high"] - metric["low"]) / 2
    artifacts.write_json(path, content)


def test_copies_are_the_same_wherever_they_lie(made, other):
    assert {state for state, _ in differences(made, other).values()} == {"same"}
    renamed = other.rename(other.parent.parent / "from-b")
    found = differences(made, renamed)
    assert {state for state, _ in found.values()} == {"same"}
    assert not any(row.startswith("splits/") for row in found)


@pytest.mark.parametrize(("apart", "tolerance", "state"), [(0.9, 1.0, "near"), (1.1, 1.0, "far"), (1.1, 2.0, "near")])
def test_a_metric_is_judged_by_its_own_interval(apart, tolerance, state, made, other):
    rewrite(other / METRICS, other / f"metrics/{STUDENT}.cost.json", lambda path: move(path, apart))
    found = differences(made, other, tolerance=tolerance)
    state_found, line = found.pop(f"evaluations/{STUDENT}")
    assert state_found == state
    assert f"at most {apart:.3g} of their interval's half width (trials.window-2.metrics.fd_teacher" in line
    assert {state for state, _ in found.values()} == {"same"}


def test_tensors_that_differ_are_measured_and_fail_nothing(made, other):
    def change(path: Path) -> None:
        tensors, header = artifacts.read_tensors(path)
        name = max(tensors)
        tensors[name] = tensors[name] + 0.125
        artifacts.write_tensors(path, tensors, header | {"sha256": artifacts.tensor_hash(tensors)})

    folder = other / "students" / STUDENT
    rewrite(folder / "ema.safetensors", folder / "cost.json", change)
    state, line = differences(made, other)[f"students/{STUDENT}"]
    assert state == "differs"
    assert "tensors differ by at most 0.125" in line


def test_another_spec_other_files_and_missing_rows_are_told_apart(made, other):
    place = other / "pairs" / PAIRS / "cost.json"
    content = record.read(place)
    record.write(place, "f" * 64, content["inputs"], record.outputs(place, content))
    (other / "samples/eps/cost.json").unlink()
    (other / "metrics/eps.cost.json").write_text("{}")
    found = differences(made, other)
    assert found[f"pairs/{PAIRS}"][0] == "other"
    assert "of spec ffffffffffff" in found[f"pairs/{PAIRS}"][1]
    assert found["samples/eps"][0] == "missing"
    assert found["evaluations/eps"][0] == "other"
    assert "not a record" in found["evaluations/eps"][1]


def test_the_verb_fails_beyond_the_tolerance_only(made, other):
    rewrite(other / METRICS, other / f"metrics/{STUDENT}.cost.json", lambda path: move(path, 0.5))
    for options, status, last in (([], 0, "near"), (["--tolerance", "0.1"], 1, "far")):
        done = subprocess.run(
            [sys.executable, "-m", "perflow", "verify", "--against", other, *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        count = len(list(keeping.compare(made.study, Path("."), other)))
        assert done.stdout.splitlines()[-1] == f"{count} artifacts: {count - 1} same, 1 {last}"


def test_no_folder_is_one_line(made):
    with pytest.raises(PerflowError, match="--against nowhere: no such folder"):
        list(keeping.compare(made.study, Path("."), Path("nowhere")))
