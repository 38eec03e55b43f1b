"""clean takes exactly what nothing names: never a row of the study, a resumable job, or another study."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perflow import artifacts, config, keeping, record
from perflow.datasets import SPLITS
from perflow.errors import PerflowError
from tests.conftest import ROOT
from tests.keeping.conftest import PAIRS, STUDENT, make, small

HERE = Path(".")


def files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def names(made) -> set[str]:
    return {str(item.path) for item in keeping.leftovers(made.study, HERE)}


def test_of_a_whole_study_nothing_is_left_over(made):
    assert keeping.leftovers(made.study, HERE) == []


def test_dropped_rows_go_and_nothing_else(made):
    """What a study has and its smaller self has not: the same files as if the rows had never been."""
    before = files(made.home)
    params = small()
    params["students"]["other"] = params["students"]["perflow"] | {"windows": 1, "pairs": "path"}
    params["students"]["other"]["trials"] = {"solvers": ["window"], "steps": [1], "guidance": 1.0}
    params["pairs"]["path"] = params["pairs"]["fixed"]
    params["bases"]["gone"] = params["bases"]["eps"]
    params["students"]["other"]["bases"] = ["gone"]
    params["datasets"]["more"] = params["datasets"]["digits"]
    make(params, made.home, steps=[])
    study = config.load("params.yaml")
    made_rows = {"digits", *(f"digits-{split}" for split in SPLITS), "eps", "cnn", PAIRS, STUDENT}
    for table in config.TABLES:
        for name in set(getattr(study, table)) - made_rows:
            place = config.places.record(table, name)
            artifacts.write_text(place.with_name("manifest.json" if table == "splits" else "x.bin"), "{}")
            if table == "evaluations":
                place.with_name("x.bin").rename(place.with_name(f"{name}.json"))
            artifacts.write_json(place, {})
            artifacts.write_text(Path("logs") / config.places.VERBS[table] / f"{name}.log", "log\n")
    assert len(files(made.home)) > len(before) + 20
    make(small(), made.home, steps=[])
    found = keeping.leftovers(made.study, HERE)
    assert {item.why for item in found} == {"no row of the study"}
    sizes = sum(item.size for item in found)
    assert sizes == sum(map(len, files(made.home).values())) - sum(map(len, before.values()))
    keeping.remove(HERE, found)
    (made.home / ".perflow.lock").unlink()
    assert files(made.home) == before
    assert names(made) == set()


def test_what_earlier_specs_left_in_a_row_that_is_made_goes(made):
    for name in ("ddim-9.zip", "ddim-9.png", ".ddim-9.png.4194305.tmp"):
        Path("results/samples/eps", name).write_bytes(b"old")
    Path(f"results/pairs/{PAIRS}/shard-00009.safetensors").write_bytes(b"old")
    assert names(made) == {
        "results/samples/eps/ddim-9.zip", "results/samples/eps/ddim-9.png",
        "results/samples/eps/.ddim-9.png.4194305.tmp", f"results/pairs/{PAIRS}/shard-00009.safetensors",
    }  # fmt: skip


def test_a_row_that_is_not_made_keeps_what_a_run_can_resume(made):
    Path(f"results/pairs/{PAIRS}/manifest.json").unlink()
    Path(f"results/pairs/{PAIRS}/cost.json").unlink()
    Path(f"results/students/{STUDENT}/cost.json").unlink()
    state = Path(f"results/state/students-{STUDENT}-0123456789ab")
    artifacts.write_text(state / "train.safetensors", "half")
    assert names(made) == set()


def test_states_of_made_and_of_dropped_rows_go_unless_a_process_holds_them(made):
    done = Path(f"results/state/students-{STUDENT}-0123456789ab")
    dropped = Path("results/state/students-gone-k4-s0-0123456789ab")
    held = Path("results/state/pairs-held-0123456789ab")
    for folder in (done, dropped, held):
        artifacts.write_text(folder / "train.safetensors", "half")
    artifacts.write_text(Path("results/pairs/held/shard-00000.safetensors"), "at work")
    with artifacts.locked(held):
        assert names(made) == {str(done), str(dropped)}
        keeping.remove(HERE, keeping.leftovers(made.study, HERE))
    assert sorted(path.name for path in Path("results/state").iterdir()) == [held.name]
    assert names(made) == {str(held), "results/pairs/held"}


def test_a_file_being_written_stays(made):
    own = Path(f"results/metrics/.eps.json.{os.getpid()}.tmp")
    own.write_text("half")
    assert names(made) == set()
    dead = own.rename("results/metrics/.eps.json.4194305.tmp")  # above the largest process id
    assert names(made) == {str(dead)}


def test_a_users_own_files_stay(made):
    for name in ("data/photographs/one.png", "data/note.txt", "notes.md", "results/notes.md", "studies/x/results/y"):
        artifacts.write_text(name, "mine")
    assert names(made) == set()


def test_a_link_is_removed_and_not_what_it_points_to(made, tmp_path):
    artifacts.write_text(tmp_path / "elsewhere/big.bin", "kept")
    Path("results/students/gone").symlink_to(tmp_path / "elsewhere")
    found = keeping.leftovers(made.study, HERE)
    assert [str(item.path) for item in found] == ["results/students/gone"]
    keeping.remove(HERE, found)
    assert not Path("results/students/gone").is_symlink()
    assert (tmp_path / "elsewhere/big.bin").read_text() == "kept"


def test_no_file_goes_while_a_run_is_at_work(made):
    import fcntl

    artifacts.write_text("results/students/gone/ema.safetensors", "old")
    found = keeping.leftovers(made.study, HERE)
    with open(".perflow.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PerflowError, match="a run is at work here"):
            keeping.remove(HERE, found)
    artifacts.write_text(".snakemake/locks/0.input.lock", "")
    with pytest.raises(PerflowError, match="Snakemake is at work here"):
        keeping.remove(HERE, found)
    assert Path("results/students/gone/ema.safetensors").is_file()


def test_the_verb_asks_first_and_keeps_to_its_study(made):
    """In a repository with two studies, cleaning one leaves the other as it is; nothing heavy is imported."""
    shutil.copytree(made.home, "studies/second", ignore=shutil.ignore_patterns("studies"))
    Path("studies/second.yaml").write_text(Path("params.yaml").read_text())
    for home in ("", "studies/second/"):
        artifacts.write_text(f"{home}results/students/gone/ema.safetensors", "x" * 2**20)

    def clean(*arguments: str) -> str:
        code = "import sys; from perflow.cli import main; main(sys.argv[1:], standalone_mode=False);"
        code += "print('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code, "clean", *arguments], capture_output=True, text=True, check=True
        )
        *lines, torch = done.stdout.splitlines()
        assert torch == "False"
        return "\n".join(lines)

    assert clean() == (
        "      1.00 MiB  results/students/gone  (no row of the study)\n"
        "1 left over, 1.00 MiB; perflow clean --yes removes them"
    )
    assert Path("results/students/gone").is_dir()
    assert clean("--yes").endswith("1 left over, 1.00 MiB: removed")
    assert not Path("results/students/gone").exists()
    assert Path("studies/second/results/students/gone").is_dir()
    assert "studies/second/results/students/gone" in clean("studies/second.yaml")
    clean("studies/second.yaml", "--yes")
    assert not Path("studies/second/results/students/gone").exists()
    assert clean() == clean("studies/second.yaml") == "nothing is left over"


def test_places_are_those_of_the_rules():
    """Where records lie is what the rules write, and a verb is the rule that makes a table."""
    import re

    for table, verb in config.places.VERBS.items():
        text = (ROOT / f"workflow/rules/{verb}.smk").read_text()
        cost = re.search(r'cost="([^"]+)"', text).group(1)
        assert config.places.record(table, "ROW").as_posix() == re.sub(r"\{\w+\}", "ROW", cost)
        assert f'"logs/{verb}/' in text
        spec = re.search(r'spec="([^"]+)"', text).group(1)
        assert config.places.spec(table, "ROW").as_posix() == re.sub(r"\{\w+\}", "ROW", spec)
    assert set(config.places.VERBS) == set(config.TABLES)
    assert record.state(artifacts.Spec("pairs", "a-b", 0, {}, "h"), {"x": "1"}).parent == Path("results/state")


def test_features_go_where_no_network_of_others_is_measured_with(tiny_params, write_params, tmp_path):
    kept = tmp_path / "home/results/features/a.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"features")
    own = config.load(write_params(tiny_params))
    assert [path for path, _, _ in keeping.leftovers(own, tmp_path / "home")] == [kept]
    tiny_params["extractors"]["foreign"] = {"kind": "inception", "weights": "inception.pt", "sha256": "0" * 64}
    assert keeping.leftovers(config.load(write_params(tiny_params)), tmp_path / "home") == []
