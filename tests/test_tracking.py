"""MLflow shows what the files say: one live run a row, whatever happened before."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perflow import artifacts, report, tracking
from perflow.errors import PerflowError
from tests import fake_study
from tests.test_security import holding, secretive

STUDENT = "students/digits-perflow-sd15-k4-s0"


@pytest.fixture(scope="module")
def template(tmp_path_factory, root: Path) -> Path:
    """A collected study and an empty MLflow database; making one takes seconds, so tests copy it."""
    home = tmp_path_factory.mktemp("template")
    study = fake_study.study()
    keep = ("digits", "digits-perflow-sdxl-k4-s0", "digits-perflow-sdxl-k4-s1", "digits-perflow-sd15-k4-s0")
    study["models"] = [model for model in study["models"] if model["name"] in keep]
    study["pairs"] = [row for row in study["pairs"] if row["name"] in {m["pairs"] for m in study["models"]}]
    spec = fake_study.write(home, study)
    report.collect(spec, home / "results", root / "workflow/report/published.json")
    tracking._client(home / "mlflow.db")
    return home


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    """A copy; MLflow's memory of where a run's files lie is emptied, for the same runs lie elsewhere in each copy."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()
    return Path(shutil.copytree(template, tmp_path / "a study"))


def sync(home: Path, page: Path | None = None) -> dict[str, str]:
    return tracking.sync(home / "results/specs/study.json", home / "results", home / "mlflow.db", home / "mlruns", page)


def live(home: Path) -> dict[str, list]:
    """Runs that are not deleted, by the row they stand for."""
    client = tracking._client(home / "mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("perflow").experiment_id])
    found: dict[str, list] = {}
    for run in runs:
        found.setdefault(run.data.tags.get("row", "?"), []).append(run)
    return found


def one_each(home: Path, runs: dict[str, str]) -> bool:
    return {row: [run.info.run_id for run in found] for row, found in live(home).items()} == {
        row: [run] for row, run in runs.items()
    }


def change(path: Path, edit) -> None:
    content = artifacts.read_json(path)
    edit(content)
    artifacts.write_json(path, content)


def table(home: Path, name: str) -> list[dict[str, str]]:
    with (home / "results/tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_run_a_row_and_again_changes_nothing(home: Path) -> None:
    runs = sync(home)
    study = artifacts.read_json(home / "results/specs/study.json")
    students = [model["name"] for model in study["models"] if model["kind"] == "student"]
    assert set(runs) == {"study/synthetic", "bases/digits", "extractors/digits-cnn"} | {
        *(f"pairs/{row['name']}" for row in study["pairs"]),
        *(f"students/{name}" for name in students),
    }
    assert one_each(home, runs)
    assert artifacts.read_json(home / "results/runs.json") == runs
    assert sync(home) == runs
    assert one_each(home, runs)


def test_values_and_curves_are_those_of_the_tables(home: Path) -> None:
    runs = sync(home)
    client = tracking._client(home / "mlflow.db")
    for row in table(home, "rows"):
        name = f"students/{row['model']}" if row["kind"] == "student" else f"bases/{row['model']}"
        metrics = client.get_run(runs[name]).data.metrics
        for metric in ("fd_teacher", "fd_teacher_low", "fd_teacher_high", "prompt_accuracy", "teacher_mse"):
            assert metrics[f"{metric}/{row['trial']}"] == float(row[metric])
    for row in table(home, "costs"):
        if row["table"] == "pairs":
            metrics = client.get_run(runs[f"pairs/{row['row']}"]).data.metrics
            assert metrics["cost/pairs/seconds"] == float(row["seconds"])
    history = client.get_metric_history(runs[STUDENT], "train/loss")
    curve = artifacts.read_jsonl(home / "results" / STUDENT / "curve.jsonl")
    assert [(point.step, point.value) for point in history] == [(line["step"], line["loss"]) for line in curve]


def test_children_hang_below_the_study_and_carry_what_is_needed(home: Path) -> None:
    runs = sync(home)
    parent = runs["study/synthetic"]
    study = artifacts.read_json(home / "results/specs/study.json")
    specs = {f"students/{model['name']}": model["model_spec"] for model in study["models"]}
    for row, (run,) in live(home).items():
        assert run.info.status == "FINISHED"
        if row != "study/synthetic":
            assert run.data.tags["mlflow.parentRunId"] == parent
        if row in specs:
            assert run.data.tags["spec"] == specs[row]
            assert run.data.tags["rule"] == "train"
            assert run.data.params["training.lr"] == "0.0015"
    client = tracking._client(home / "mlflow.db")
    assert {file.path for file in client.list_artifacts(parent, "tables")} >= {
        "tables/main.csv",
        "tables/comparisons.csv",
    }
    grids = {file.path for file in client.list_artifacts(runs[STUDENT], "samples")}
    assert grids == {"samples/window-4.png", "samples/window-8.png"}
    kept = client.download_artifacts(parent, "params.yaml", str(home))
    assert Path(kept).read_text() == study["params_text"]


def test_a_changed_spec_supersedes_one_run_only(home: Path) -> None:
    before = sync(home)
    name = STUDENT.partition("/")[2]
    change(
        home / "results/specs/study.json",
        lambda study: [model.update(model_spec="new") for model in study["models"] if model["name"] == name],
    )
    after = sync(home)
    assert {row for row in after if after[row] != before[row]} == {STUDENT}
    assert one_each(home, after)


def test_changed_numbers_supersede_the_row_and_the_study_but_keep_the_tree(home: Path, root: Path) -> None:
    before = sync(home)
    path = home / "results/metrics/digits-perflow-sd15-k4-s0.json"
    change(path, lambda content: content["trials"]["window-4"]["metrics"]["fd_teacher"].update(value=9.5))
    report.collect(
        home / "results/specs/study.json", home / "results", root / "workflow/report/published.json"
    )  # fmt: skip
    after = sync(home)
    assert {row for row in after if after[row] != before[row]} == {STUDENT, "study/synthetic"}
    assert one_each(home, after)
    found = live(home)
    assert found[STUDENT][0].data.metrics["fd_teacher/window-4"] == 9.5
    parents = {run.data.tags.get("mlflow.parentRunId") for runs in found.values() for run in runs}
    assert parents == {None, after["study/synthetic"]}


def test_a_row_the_study_no_longer_names_disappears(home: Path, root: Path) -> None:
    sync(home)
    name = STUDENT.partition("/")[2]
    spec = home / "results/specs/study.json"
    change(spec, lambda study: study.update(models=[m for m in study["models"] if m["name"] != name]))
    report.collect(spec, home / "results", root / "workflow/report/published.json")
    runs = sync(home)
    assert STUDENT not in runs
    assert one_each(home, runs)


def test_a_run_that_was_cut_short_is_filled_up(home: Path) -> None:
    runs = sync(home)
    client = tracking._client(home / "mlflow.db")
    whole = client.get_metric_history(runs[STUDENT], "train/loss")
    client.delete_tag(runs[STUDENT], "complete")
    assert sync(home) == runs
    assert one_each(home, runs)
    assert "complete" in client.get_run(runs[STUDENT]).data.tags
    assert [point.value for point in client.get_metric_history(runs[STUDENT], "train/loss")] == [p.value for p in whole]


def test_ids_are_known_before_and_hold_in_any_database(home: Path) -> None:
    tracking.write_ids(home / "results/specs/study.json", home / "results")
    said = dict(line.split(",") for line in (home / "results/tables/runs.csv").read_text().splitlines()[1:])
    assert sync(home) == said
    (home / "mlflow.db").unlink()
    assert sync(home) == said


def test_a_row_that_says_the_same_again_gets_its_run_back(home: Path) -> None:
    before = sync(home)
    path = home / "results/specs/study.json"
    seed = artifacts.read_json(path)["seed"]
    change(path, lambda study: study.update(seed=seed + 1))
    assert sync(home)["study/synthetic"] != before["study/synthetic"]
    change(path, lambda study: study.update(seed=seed))
    assert sync(home) == before
    assert one_each(home, before)


def test_a_database_whose_making_was_cut_short_leaves_nothing(home: Path, monkeypatch) -> None:
    import mlflow

    class Killed(BaseException):
        pass

    (home / "mlflow.db").unlink()

    def cut(self: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(mlflow.MlflowClient, "search_experiments", cut)
        with pytest.raises(Killed):
            sync(home)
    assert not [path.name for path in home.glob("*mlflow.db*") if path.suffix != ".lock"]


def test_two_studies_share_a_database(home: Path) -> None:
    runs = sync(home)
    change(home / "results/specs/study.json", lambda study: study.update(name="other"))
    others = sync(home)
    assert not set(runs.values()) & set(others.values())
    assert {row: len(found) for row, found in live(home).items()}[STUDENT] == 2


@pytest.mark.parametrize("place", ["studies/tiny", "some one's/study"])
def test_two_homes_with_one_name_leave_each_other_alone(home: Path, place: str) -> None:
    runs = sync(home)
    change(home / "results/specs/study.json", lambda study: study.update(home=place))
    others = sync(home)
    assert sync(home) == others
    assert not set(runs.values()) & set(others.values())
    assert set(others) - set(runs) == {f"study/synthetic ({place})"}
    change(home / "results/specs/study.json", lambda study: study.update(home="."))
    assert sync(home) == runs
    found = live(home)
    assert {run.info.run_id for run in found[STUDENT]} == {runs[STUDENT], others[STUDENT]}
    (parent,) = found[f"study/synthetic ({place})"]
    assert parent.info.run_name == parent.data.tags["study"] == f"synthetic ({place})"


def test_the_page_is_attached_to_the_study(home: Path) -> None:
    page = home / "report.html"
    page.write_text("first")
    runs = sync(home, page)
    client = tracking._client(home / "mlflow.db")

    def attached() -> str:
        return Path(client.download_artifacts(runs["study/synthetic"], "report.html", str(home / "down"))).read_text()

    (home / "down").mkdir()
    assert attached() == "first"
    page.write_text("second")
    assert sync(home, page) == runs
    assert attached() == "second"


def test_a_database_that_was_moved_says_what_to_do(home: Path) -> None:
    sync(home)
    with pytest.raises(PerflowError, match=r"delete .*mlflow\.db"):
        tracking.sync(home / "results/specs/study.json", home / "results", home / "mlflow.db", home / "elsewhere")


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_database_is_one_line_and_is_made_anew_when_deleted(home: Path, damage: str) -> None:
    runs, database = sync(home), home / "mlflow.db"
    content = database.read_bytes()
    database.write_bytes(content[: len(content) // 3] if damage == "truncated" else b"\xff" * 5000 + content[5000:])
    track = [sys.executable, "-m", "perflow", "track", "--artifacts", str(home / "mlruns")]
    track += ["--results", str(home / "results"), "--database", str(database)]
    said = subprocess.run(track, capture_output=True, text=True, check=False).stderr.splitlines()
    assert re.fullmatch(r"perflow: .*mlflow\.db: MLflow cannot use it \(.*\); .* delete it .*", said[-1])
    assert not any("Traceback" in line for line in said)
    database.unlink()
    subprocess.run(track, capture_output=True, check=True)
    assert json.loads((home / "results/runs.json").read_text()) == runs


def test_the_same_place_by_another_path_is_the_same_place(home: Path) -> None:
    runs = sync(home)
    study = home / "results/specs/study.json"
    assert tracking.sync(study, home / "results", home / "mlflow.db", home / "results" / ".." / "mlruns") == runs


def test_uncollected_results_are_refused(home: Path) -> None:
    (home / "results/tables/rows.csv").unlink()
    with pytest.raises(PerflowError, match="perflow collect"):
        sync(home)


def test_no_secret_of_the_environment_is_recorded(home: Path, monkeypatch) -> None:
    secrets = secretive()
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    sync(home)
    assert (home / "mlflow.db").stat().st_size > 0
    assert any((home / "mlruns").rglob("*.csv"))
    assert not holding(home, secrets)


def test_mlflow_is_imported_late_and_without_telemetry(home: Path) -> None:
    code = (
        "import sys, perflow.tracking\n"
        "assert not {'mlflow', 'torch', 'pandas'} & set(sys.modules)\n"
        "perflow.tracking._client(sys.argv[1])\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
    )
    loud = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_DISABLE_TELEMETRY", "CI")}
    loud.pop("PYTEST_CURRENT_TEST", None)  # which also silences mlflow
    run = [sys.executable, "-c", code, str(home / "mlflow.db")]
    assert subprocess.run(run, env=loud, check=False).returncode == 0
