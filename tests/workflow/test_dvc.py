"""What DVC records was made from what is recorded with it, and comes back whole: the real commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perflow.config.load import read_yaml
from tests.conftest import dump_params
from tests.workflow.conftest import Repository, copy_repository

BIN = Path(sys.executable).parent
VERIFY = f"{sys.executable} -m perflow verify"
STUDENT = "eps-perflow-k2/window-2"
EXPERIMENTS = {
    "rate": ("--temp", "+students.perflow.training.lr=5e-3"),
    "kid": ("--queue", "evaluation.metrics=[fd_teacher,teacher_mse,kid_teacher]"),
    "steps": ("", "students.perflow.trials.steps=[2,4]"),
}
"""Name -> where it runs, what it changes."""


class Recorded(Repository):
    """A git repository, and what one types in it."""

    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests: no settings of git, no caches of DVC."""
        who = {f"GIT_{role}_{what}": "tests" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        private = {"GIT_CONFIG_GLOBAL": os.devnull, "DVC_SITE_CACHE_DIR": str(self.root.parent / "site-cache")}
        return super().environment() | who | private

    def call(self, line: str, check: bool = True, **environment: str) -> str:
        """What a command says, typed in the repository."""
        done = subprocess.run(
            shlex.split(line), cwd=self.root, env=self.environment() | environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == check, f"{line}\n{done.stdout[-6000:]}"
        return done.stdout

    def json(self, line: str) -> dict:
        """What a command says with --json."""
        return json.loads(self.call(f"{line} --json"))

    def make(self, goal: str, **environment: str) -> str:
        """make, in this environment instead of .venv."""
        return self.call(f"make -o environment BIN={BIN} CORES=2 {goal}", **environment)


def smallest(root: Path) -> str:
    """The tiny study with one base and one student, and less of everything."""
    params = read_yaml(root / "workflow/studies/tiny.yaml")[0]
    params["study"] = "smallest"
    params["datasets"]["digits"]["counts"] = dict.fromkeys(("base", "extractor", "reference"), 64)
    del params["bases"]["v"], params["pairs"]["path"], params["students"]["distilled"]
    for phase in ("words", "autoencoder", "network"):
        params["bases"]["eps"][phase]["steps"] = 2
    params["extractors"]["tiny-cnn"]["training"]["steps"] = 2
    params["pairs"]["fixed"] |= {"steps": 2, "count": 32}
    params["training"]["steps"] = 4
    params["students"]["perflow"]["windows"] = 2
    params["students"]["perflow"]["trials"]["steps"] = [2]
    params["sampling"] |= {"per_prompt": 2}
    params["evaluation"]["metrics"] = ["fd_teacher", "teacher_mse"]
    return dump_params(params)


@pytest.fixture(scope="module")
def recorded(root, tmp_path_factory) -> Recorded:
    """A run that was recorded, committed and pushed."""
    repository = Recorded(*copy_repository(root, tmp_path_factory.mktemp("dvc") / "mine", "params.yaml"))
    repository.study.write_text(smallest(root))
    repository.call("git init --quiet --initial-branch main")
    repository.call("git add .")
    repository.call("git commit --quiet --message 'A study'")
    assert "recorded in dvc.lock" in repository.make("record")
    assert repository.call("git status --porcelain") == "?? dvc.lock\n"
    repository.call("dvc remote add --default shared ../shared")
    repository.call("git add .")
    repository.call("git commit --quiet --message 'Its results'")
    repository.call("dvc push")
    return repository


@pytest.fixture(scope="module")
def experiments(recorded) -> Recorded:
    """The repository after one experiment of each kind, its workspace as committed."""
    for name, (where, change) in EXPERIMENTS.items():
        recorded.call(f"dvc exp run {where} --name {name} --set-param '{change}'")
        if where == "--queue":
            recorded.call("dvc exp run --run-all")
    assert recorded.planned() == {}  # the last one ran here
    recorded.call("git checkout --quiet .")
    recorded.call("dvc checkout")
    return recorded


def test_after_a_record_nothing_is_to_be_done(recorded):
    assert recorded.json("dvc status") == {}
    assert "didn't change, skipping" in recorded.call("dvc repro")
    assert recorded.planned() == {}
    assert recorded.call("git status --porcelain") == ""


def test_all_that_a_run_makes_is_in_the_record(recorded):
    """But for MLflow's ids, which belong to one machine."""
    listed = recorded.call(f"{sys.executable} -m snakemake --summary").splitlines()
    head, *made = [line.split("\t")[0] for line in listed if "\t" in line]
    assert head == "output_file"
    outs = [out["path"] for out in yaml.safe_load((recorded.root / "dvc.lock").read_text())["stages"]["study"]["outs"]]
    assert len(made) > 20
    assert {name for name in made if not any(f"{name}/".startswith(f"{out}/") for out in outs)} == {"results/runs.json"}


def test_after_a_clone_and_a_pull_only_mlflow_is_to_be_told(recorded, tmp_path):
    recorded.call(f"git clone --quiet . {tmp_path / 'theirs'}")
    clone = Recorded(tmp_path / "theirs", "params.yaml")
    assert "Is your cache up to date?" in clone.call("dvc pull", check=False)  # ../shared is nowhere
    clone.call(f"dvc remote modify --local shared url {recorded.root.parent / 'shared'}")
    clone.call("dvc pull")
    clone.call(VERIFY)
    assert clone.planned() == {"track": [""]}
    clone.make("reproduce")
    assert clone.planned() == {}
    assert clone.json("dvc status") == {}
    assert clone.hashes() == recorded.hashes()
    for page in ("reports/report.html", "reports/report.ipynb"):
        assert (clone.root / page).read_bytes() == (recorded.root / page).read_bytes()
    assert "didn't change, skipping" in clone.call("dvc repro")


def test_an_experiment_has_the_numbers_of_its_own_values(experiments):
    base = json.loads((experiments.root / "results/metrics.json").read_text())
    expected = {
        "rate": {f"{STUDENT}/fd_teacher", f"{STUDENT}/teacher_mse"},
        "kid": {f"{row.rpartition('/')[0]}/kid_teacher" for row in base},
        "steps": {"eps-perflow-k2/window-4/fd_teacher", "eps-perflow-k2/window-4/teacher_mse"},
    }
    for name, rows in expected.items():
        assert set(experiments.json(f"dvc metrics diff main {name}")["results/metrics.json"]) == rows, name
    changed = experiments.json("dvc params diff main rate")
    assert changed == {"params.yaml": {"students.perflow.training.lr": {"old": None, "new": 0.005}}}
    shown = experiments.call("dvc exp show --csv")
    assert all(name in shown for name in EXPERIMENTS)


def test_plots_show_what_the_tables_hold(experiments):
    experiments.call("dvc plots show")
    experiments.call("dvc plots diff main steps")
    assert "fd_teacher" in (experiments.root / "dvc_plots/index.html").read_text()
    assert experiments.call("git status --porcelain") == ""
    drawn = experiments.json("dvc plots diff main steps")
    assert not drawn.get("errors")
    ((plot,),) = drawn["data"].values()
    content = plot["content"] if isinstance(plot["content"], dict) else json.loads(plot["content"])
    points = {(point["rev"], point["trial"]) for point in content["data"]["values"] if point["kind"] == "student"}
    assert points == {("main", "window-2"), ("steps", "window-2"), ("steps", "window-4")}
    assert content["encoding"]["shape"]["field"] == "label"


def test_branches_bring_their_own_results(experiments):
    experiments.call("dvc exp branch rate faster")
    mine = experiments.hashes()
    experiments.call("git switch --quiet faster")
    assert "train" in experiments.planned()  # an honest answer before the files are there
    experiments.call("dvc checkout")
    assert experiments.planned() == {"track": [""]}
    experiments.call(VERIFY)
    assert experiments.json("dvc status") == {}
    assert experiments.hashes() != mine
    experiments.call("git switch --quiet main")
    experiments.call("dvc checkout")
    assert set(experiments.planned()) <= {"track"}
    assert experiments.hashes() == mine


def test_another_study_has_a_record_beside_its_file(recorded, tmp_path):
    """Its home begins as a copy of the recorded one, so that only tables and page are made; with the code it is in."""
    shutil.copytree(recorded.root, tmp_path / "mine")
    repository = Recorded(tmp_path / "mine", "workflow/studies/other.yaml")
    shutil.copy(recorded.study, repository.study)
    for folder in ("data", "results", "reports", ".snakemake"):
        shutil.copytree(recorded.root / folder, repository.home / folder)
    repository.moved()
    (tmp_path / "perflow").mkdir()
    (tmp_path / "perflow/__init__.py").write_text("raise ImportError('another perflow')\n")
    said = repository.make("record STUDY=workflow/studies/other.yaml", PYTHONPATH=str(tmp_path))
    assert "recorded in workflow/studies/other/dvc.lock" in said
    assert "rule train" not in said
    own = "workflow/studies/other/dvc.yaml"
    assert repository.json("dvc status") == {}
    assert "didn't change, skipping" in repository.call(f"dvc repro {own}")
    assert set(repository.json("dvc metrics show")[""]["data"]) == {
        "results/metrics.json", "studies/other/results/metrics.json"
    }  # fmt: skip
    assert len(repository.json("dvc plots show")["data"]) == 2
    repository.call("git add .")
    repository.call("git commit --quiet --message 'Another study'")
    repository.call("dvc push")
    shutil.rmtree(repository.root / "studies")
    shutil.rmtree(repository.root / ".dvc/cache")
    repository.call(f"dvc pull {own}")
    assert repository.json(f"dvc status {own}") == {}
    assert repository.planned() == {"track": [""]}


def test_the_workflow_needs_neither_git_nor_dvc(recorded, tmp_path):
    without = shutil.ignore_patterns(".git", ".dvc", "mlflow.db", "mlruns")
    copy = Recorded(shutil.copytree(recorded.root, tmp_path / "copy", ignore=without), "params.yaml")
    (tmp_path / "bin").mkdir()
    for command in ("bash", "sh", "cat", "rm", "mkdir", "tee", "uname"):
        (tmp_path / "bin" / command).symlink_to(shutil.which(command))
    (tmp_path / "modules/dvc").mkdir(parents=True)
    (tmp_path / "modules/dvc/__init__.py").write_text("raise ImportError('No module named dvc')\n")
    bare = {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(tmp_path / "modules")}
    run = f"{sys.executable} workflow/reproduce.py --cores 2"
    assert "rule track" in copy.call(run, **bare)
    assert "Nothing to be done" in copy.call(run, **bare)
    said = copy.call(f"{run} --record", check=False, **bare)
    assert said == (
        "perflow: recording needs DVC and a git repository (ImportError: No module named dvc); "
        "make reproduce runs without them\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--record --dry-run", "only a whole run is recorded: --record does not go with --dry-run"),
        ("--record --study /elsewhere/study.yaml", "a study's file must lie in the repository"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_runs(recorded, arguments, said):
    answer = recorded.call(f"{sys.executable} workflow/reproduce.py {arguments}", check=False)
    assert said in answer.splitlines()[-1]
