"""A campaign of faults against real runs of a study: ``make torture``.

    python -m tests.workflow.torture [--study workflow/studies/tiny.yaml] [--kills 100] [--seed 0] [--report FILE]

A reference run is made first. Then a run is struck at a random moment, the same command is given again,
struck again, and so on until it ends by itself; every finished study must have the reference's bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.workflow.conftest import Repository, copy_repository

ROOT = Path(__file__).resolve().parents[2]
STAGE, SNAKEMAKE, ALL, TERM, INTERRUPT, EDIT = (
    "kill -9 of a stage", "kill -9 of Snakemake", "kill -9 of everything", "SIGTERM of Snakemake", "Ctrl-C",
    "the study edited and put back while jobs run",
)  # fmt: skip
KINDS = (STAGE, SNAKEMAKE, ALL, TERM, INTERRUPT, EDIT)


class Campaign:
    """Strikes one repository copy again and again, and keeps the counts."""

    def __init__(self, repository: Repository, reference: dict[str, str], seed: int):
        self.repository, self.reference = repository, reference
        self.random = random.Random(seed)
        self.struck: Counter[str] = Counter()
        self.finished = self.waited = 0
        self.faults: list[str] = []

    def run(self, strikes: int, longest: float) -> None:
        """Start, strike after a random time below ``longest`` seconds, start again; ``strikes`` times."""
        self._forget()
        while sum(self.struck.values()) < strikes:
            if self._struck(self.random.choice(KINDS), self.random.uniform(0.5, longest)):
                self._compare()
                self._forget()
        while not self._struck(None, 0):
            pass
        self._compare()

    def _forget(self) -> None:
        for folder in ("data", "results", "reports"):
            shutil.rmtree(self.repository.home / folder, ignore_errors=True)
        self.repository.moved()

    def _struck(self, kind: str | None, delay: float) -> bool:
        """One command; True if it came to its end."""
        log = self.repository.root / "torture.log"  # a file: a pipe would make us wait for orphans, or them for us
        with log.open("w") as output:
            process = subprocess.Popen(
                self.repository.command(), cwd=self.repository.root, env=self.repository.environment(),
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        begun = time.monotonic()
        while kind and process.poll() is None and time.monotonic() - begun < delay:
            time.sleep(0.05)
        if kind and process.poll() is None and self._strike(kind, process):
            self.struck[kind] += 1
            print(f"{sum(self.struck.values())}: {kind} after {delay:.1f} s", flush=True)
        if process.wait() == 0:
            return kind != EDIT  # a dry run of other parameters may have left their specs: one more run is due
        output = log.read_text()
        said = [line for line in output.splitlines() if line.startswith("perflow:")]
        if "Traceback" in output:
            self._fault(f"traceback after {kind}", output)
        if any("in use by process" in line or "is at work in process" in line for line in said):
            self.waited += 1  # an orphan still holds its row, or a killed run its lock: wait and try again
            time.sleep(3)
        elif kind is None:
            self._fault("an undisturbed run failed", output)
        return False

    def _strike(self, kind: str, process: subprocess.Popen) -> bool:
        """Do it; False if there was nothing to strike."""
        group = _group(process.pid)
        if kind == STAGE:
            jobs = [pid for pid, command in group.items() if "worker.py" in command and " --spec " in command]
            if not jobs:
                return False
            _kill(self.random.choice(jobs), signal.SIGKILL)
        elif kind == SNAKEMAKE:
            for pid, command in group.items():
                if "-m snakemake" in command or "reproduce.py" in command:
                    _kill(pid, signal.SIGKILL)
        elif kind == ALL:
            os.killpg(process.pid, signal.SIGKILL)
        elif kind == TERM:
            for pid, command in group.items():
                if "-m snakemake" in command:
                    _kill(pid, signal.SIGTERM)
        elif kind == INTERRUPT:
            os.killpg(process.pid, signal.SIGINT)
        elif kind == EDIT:
            text = self.repository.study.read_text()
            self.repository.study.write_text(text.replace("seed: 0", "seed: 7"))
            self.repository.run("--dry-run", check=False)  # what a curious user does meanwhile
            time.sleep(self.random.uniform(0, 2))
            self.repository.study.write_text(text)
        return True

    def _compare(self) -> None:
        self.finished += 1
        found = self.repository.hashes()
        for name in sorted(self.reference.keys() | found.keys()):
            if self.reference.get(name) != found.get(name):
                self._fault(f"{name} differs", "")
        if self.repository.planned():
            self._fault("something is left to do", str(self.repository.planned()))
        print(f"finished {self.finished} times, faults so far: {len(self.faults)}", flush=True)

    def _fault(self, what: str, output: str) -> None:
        self.faults.append(what)
        print(f"FAULT: {what}\n{output[-3000:]}", flush=True)


def _group(leader: int) -> dict[int, str]:
    """Process id -> command line, of a process group."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return {int(row[0]): row[2] for row in rows if len(row) == 3 and int(row[1]) == leader}


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def main() -> int:
    """Parse, run, print the counts; status 1 if anything was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="workflow/studies/tiny.yaml", help="the study [tiny]")
    parser.add_argument("--kills", type=int, default=100, help="how often to strike [100]")
    parser.add_argument("--longest", type=float, default=40, help="seconds before a strike, at most [40]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds [0]")
    parser.add_argument("--report", type=Path, help="write the counts there, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = copy_repository(ROOT, Path(folder) / "clone", given.study)
        begun = time.monotonic()
        repository.run()
        print(f"reference made in {time.monotonic() - begun:.0f} s", flush=True)
        campaign = Campaign(repository, repository.hashes(), given.seed)
        campaign.run(given.kills, given.longest)
    counts = {
        "study": given.study, "seed": given.seed, "struck": dict(campaign.struck),
        "total": sum(campaign.struck.values()), "finished with the reference's bytes": campaign.finished,
        "waited for an orphan or a lock": campaign.waited, "faults": campaign.faults,
        "machine": f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}",
    }  # fmt: skip
    text = json.dumps(counts, indent=1)
    print(text)
    if given.report:
        given.report.write_text(text + "\n")
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
