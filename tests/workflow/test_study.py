"""One run makes everything; after that an edit reruns exactly its readers."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.workflow.conftest import copy_repository

AFTER = {"collect", "track", "report"}


def test_the_study_is_made_whole_and_says_so(reference):
    log = (reference.root / "first.log").read_text()
    assert re.search(r"train eps-perflow-k2-s0 · train 20/20", log)
    assert "FD-tiny-cnn" in log
    assert "reports/report.html" in log
    for name in ("reports/report.html", "results/runs.json", "results/metrics.json", "results/tables/main.csv"):
        assert (reference.home / name).stat().st_size > 0
    for student in ("eps-perflow-k1-s0", "eps-perflow-k2-s0", "v-distilled-k2-s0"):
        assert (reference.home / f"results/students/{student}/delta.safetensors").is_file()
    assert not any((reference.home / "results/state").iterdir())


def test_a_second_run_has_nothing_to_do(reference):
    assert "Nothing to be done" in reference.run().stdout
    assert reference.planned() == {}


def test_another_folder_one_core_and_cold_processes_give_the_same_bytes(reference, root, tmp_path):
    """Neither the place, nor how many jobs run side by side, nor the warm process is in the bytes."""
    elsewhere = copy_repository(root, tmp_path / "another place, with 'marks'")
    elsewhere.run(cores="1")
    assert elsewhere.hashes() == reference.hashes()
    for folder in ("pairs/eps-fixed-k2", "students/eps-perflow-k2-s0", "samples/eps-perflow-k2-s0"):
        shutil.rmtree(elsewhere.home / "results" / folder)
    elsewhere.edit("Snakefile", "    worker = start_worker()  # ends with this process\n", "    pass\n")
    (elsewhere.home / ".snakemake" / "worker.log").unlink()
    said = elsewhere.run(cores="1").stdout
    assert {rule for rule in ("cache", "train", "export", "sample", "evaluate") if f"rule {rule}:" in said} == {
        "cache", "train", "export", "sample", "evaluate"
    }  # fmt: skip
    assert not (elsewhere.home / ".snakemake" / "worker.log").exists()
    assert elsewhere.hashes() == reference.hashes()


def test_adding_windows_makes_exactly_the_new_rows_and_removing_them_makes_none(repository):
    repository.moved()
    before = repository.hashes("results/pairs", "results/students", "results/samples", "results/metrics")
    repository.edit("workflow/studies/tiny.yaml", "windows: [1, 2]", "windows: [1, 2, 3]")
    repository.edit("workflow/studies/tiny.yaml", "steps: [1, 2], guidance: 1.0}", "steps: [1, 2, 3], guidance: 1.0}")
    # A new number of steps is asked of the old students too; without it the third row would have no trial.
    new = "eps-perflow-k3-s0"
    planned = repository.planned()
    assert planned["cache"] == ["eps-fixed-k3"]
    assert planned["train"] == planned["export"] == [new]
    assert set(planned["sample"]) == {"eps-perflow-k1-s0", "eps-perflow-k2-s0", new}
    repository.run()
    after = repository.hashes("results/pairs", "results/students", "results/samples", "results/metrics")
    assert not {
        name
        for name, sha in before.items()
        if after[name] != sha and "pairs" in name or "students" in name and after[name] != sha
    }
    assert {row["key"] for row in table(repository, "main")} >= {"eps-perflow-k3"}

    repository.edit("workflow/studies/tiny.yaml", "windows: [1, 2, 3]", "windows: [1, 2]")
    assert set(repository.planned()) <= AFTER
    repository.run()
    assert not {row["key"] for row in table(repository, "main")} & {"eps-perflow-k3"}
    assert "k3" not in (repository.home / "results/metrics.json").read_text()


def table(repository, name):
    with open(repository.home / f"results/tables/{name}.csv") as file:
        return list(csv.DictReader(file))


EDITS = [
    ("an evaluation value", "workflow/studies/tiny.yaml", "groups: 4", "groups: 8", {"evaluate"}),
    (
        "the number of real images",
        "workflow/studies/tiny.yaml",
        "reference: 256",
        "reference: 200",
        {"fetch", "evaluate"},
    ),
    ("a comment", "perflow/core/solvers.py", '"""Solvers of', '"""The solvers of', set()),
    (
        "one loss",
        "perflow/methods/distill.py",
        ".square().mean()",
        ".square().mean() * 1.0",
        {"train", "export", "sample", "evaluate"},
    ),
    ("the report's code", "perflow/report/words.py", "from __future__", "SPARE = 1\nfrom __future__", AFTER),
]


@pytest.mark.parametrize(("what", "file", "old", "new", "rules"), EDITS, ids=[edit[0] for edit in EDITS])
def test_an_edit_reruns_exactly_its_readers(what, file, old, new, rules, repository):
    if what == "the report's code":
        old, new = "from __future__ import annotations\n", "from __future__ import annotations\n\nSPARE = 1\n"
    repository.edit(file, old, new)
    planned = repository.planned()
    if not rules:
        assert planned == {}
        return
    assert set(planned) == rules | AFTER
    if "fetch" in rules:
        assert planned["fetch"] == ["digits-reference"]
    if what == "one loss":
        rows = {row for rule in ("train", "export", "sample", "evaluate") for row in planned[rule]}
        assert rows == {"v-distilled-k2-s0"}


def test_a_mistake_in_the_study_is_one_line_and_nothing_is_lost(repository):
    before = repository.hashes()
    repository.edit("workflow/studies/tiny.yaml", "windows: [1, 2]", "windows: [2, 0]")
    done = repository.run(check=False)
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("perflow:")]
    assert len(lines) == 1
    assert "students.perflow.windows" in lines[0]
    assert "Traceback" not in done.stdout
    assert repository.hashes() == before


def test_mlflow_holds_what_the_tables_hold_once(repository):
    code = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}")
experiments = client.search_experiments()
runs = client.search_runs([e.experiment_id for e in experiments])
print(json.dumps({"experiments": [e.name for e in experiments if e.name != "Default"],
  "runs": {r.info.run_id: [r.info.run_name, r.data.metrics, r.data.tags.get("mlflow.parentRunId")] for r in runs}}))
"""

    def runs() -> dict:
        done = subprocess.run([sys.executable, "-c", code, repository.root / "mlflow.db"], cwd=repository.root,
                              capture_output=True, text=True, check=True)  # fmt: skip
        return json.loads(done.stdout.splitlines()[-1])

    repository.moved()
    repository.run()
    first = runs()
    assert first["experiments"] == ["perflow"]
    parents = [name for name, _, parent in first["runs"].values() if parent is None]
    assert parents == ["tiny (studies/tiny)"]
    written = json.loads((repository.home / "results/runs.json").read_text())
    assert set(written.values()) == set(first["runs"])
    by_name = {name: metrics for name, metrics, _ in first["runs"].values()}
    compared = 0
    for row in table(repository, "rows"):
        for column in ("fd_teacher", "kid_real", "teacher_mse", "fd_teacher_low", "fd_teacher_high"):
            assert by_name[row["model"]][f"{column}/{row['trial']}"] == float(row[column])
            compared += 1
    assert compared > 20
    (repository.home / "results/runs.json").unlink()
    repository.run()
    assert set(runs()["runs"]) == set(first["runs"])


def test_the_linter_has_one_accepted_remark(root):
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "--cores", "1"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    remarks = re.findall(r"^    \* (.*)$", done.stdout, re.MULTILINE)
    assert remarks, done.stdout
    assert set(remarks) == {"Specify a conda environment or container for each rule.:"}
