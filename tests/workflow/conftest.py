"""The real rules on the tiny study: a copy of the repository, a run, and what a run says."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

VOLATILE = re.compile(
    r"cost\.json$|runs\.(json|csv)$|/state/|report\.(ipynb|html)$|costs\.csv$|tables/record\.json$|\.lock$"
)
"""Files outside every claim of equal bytes: times, MLflow's ids, and the page that names them."""


class Repository(NamedTuple):
    """A copy of the repository and one of its studies."""

    root: Path
    file: str = "workflow/studies/tiny.yaml"

    @property
    def study(self) -> Path:
        """The study file, to be edited."""
        return self.root / self.file

    @property
    def home(self) -> Path:
        """Where the study's files lie."""
        return self.root if self.file == "params.yaml" else self.root / "studies" / self.study.stem

    def command(self, *arguments: str, cores: str = "2") -> list[str]:
        """The command that ``make demo`` runs."""
        return [sys.executable, "workflow/reproduce.py", "--study", str(self.study), "--cores", cores, *arguments]

    def run(self, *arguments: str, cores: str = "2", check: bool = True) -> subprocess.CompletedProcess:
        """Run the study; output is both streams."""
        done = subprocess.run(
            self.command(*arguments, cores=cores), cwd=self.root, env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout[-6000:]
        return done

    def moved(self) -> Repository:
        """Forget MLflow's database, whose artifact paths are absolute: a copy's first run makes a new one."""
        (self.root / "mlflow.db").unlink(missing_ok=True)
        shutil.rmtree(self.root / "mlruns", ignore_errors=True)
        return self

    def environment(self) -> dict[str, str]:
        """This environment, with the copy's package in front."""
        return {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def planned(self) -> dict[str, list[str]]:
        """What a run would do now: rule -> rows, from a dry run."""
        text = self.run("--dry-run").stdout
        jobs: dict[str, list[str]] = {}
        for rule, block in re.findall(r"(?:local)?rule (\w+):\n((?:    .*\n)+)", text):
            row = re.search(r"wildcards: \w+=(\S+)", block)
            jobs.setdefault(rule, []).append(row.group(1) if row else "")
        return {rule: sorted(set(rows)) for rule, rows in jobs.items() if rule != "all"}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text that must be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{file} lacks {old!r}"
        path.write_text(text.replace(old, new))

    def hashes(self, *below: str) -> dict[str, str]:
        """sha256 of every artifact with a claim of equal bytes."""
        found = {}
        for folder in below or ("data", "results"):
            for path in sorted((self.home / folder).rglob("*")):
                name = path.relative_to(self.home).as_posix()
                if path.is_file() and not VOLATILE.search(name):
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found


def copy_repository(root: Path, to: Path, study: str = "workflow/studies/tiny.yaml") -> Repository:
    """The files of the repository that git tracks or would track, without results."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return Repository(to, study)


@pytest.fixture(scope="session")
def reference(root, tmp_path_factory) -> Repository:
    """A finished tiny study that nobody changes."""
    repository = copy_repository(root, tmp_path_factory.mktemp("reference") / "clone")
    first = repository.run()
    (repository.root / "first.log").write_text(first.stdout)
    return repository


@pytest.fixture
def repository(reference, tmp_path) -> Repository:
    """A copy of the finished study, Snakemake's memory included, that a test may change."""
    shutil.copytree(reference.root, tmp_path / "clone", symlinks=True)
    return Repository(tmp_path / "clone")
