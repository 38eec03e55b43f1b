"""A campaign of faults against real runs of a study: ``make torture``.

    python -m tests.workflow.torture [--study workflow/studies/tiny.yaml] [--kills 100] [--seed 0] [--out FILE]

A reference run is made first. Then a run is struck at a random moment, the same command is given again, struck
again, and so on; every study that comes to its end must have the reference's bytes. A run that fails must say why
in one line; where that line names a file to delete, it is deleted. ``tests/workflow/faults.py`` holds the kinds.
Ctrl-C ends the striking: the study is let come to its end, compared and counted. A second one stops at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.workflow import faults
from tests.workflow.conftest import Repository, copy_repository

ROOT = Path(__file__).resolve().parents[2]
_BUSY = ("in use by process", "is at work in process", "is still there; run the same command again")
_ROUNDS = 60
"""How often an unstruck command may be given before a study that does not end is a fault."""


class Campaign:
    """Strikes one repository copy again and again, and keeps the counts."""

    def __init__(self, repository: Repository, seed: int, mounted: bool, kinds: str, forget: list[str]):
        self.repository, self.mounted, self.forget = repository, mounted, forget
        self.reference = repository.hashes()
        self.random = random.Random(seed)
        self.asked = [kind for kind in faults.KINDS if any(word in kind for word in kinds.split(","))]
        self.kinds = {kind: faults.KINDS[kind] for kind in self.asked if faults.possible(kind, mounted)}
        self.strikes = 0
        self.process: subprocess.Popen | None = None
        self.struck: Counter[str] = Counter()
        self.survived: Counter[str] = Counter()
        self.pending: list[str] = []
        """Struck since the study last came to its end."""
        self.last = "no strike"
        self.finished = self.waited = self.deleted = 0
        self.faults: list[str] = []

    def run(self, strikes: int, longest: float) -> None:
        """Start, strike after a random time below ``longest`` seconds, start again; ``strikes`` times.

        Kinds come as from a deck of cards, so each comes as often as the others.
        """
        self.strikes = strikes
        self._forget()
        deck: list[str] = []
        while self.struck.total() < self.strikes:
            deck = deck or self.random.sample(sorted(self.kinds), len(self.kinds))
            before = self.struck.total()
            if self._command(deck[-1], self.random.uniform(0.5, longest)):
                self._compare()
                self._forget()
            if self.struck.total() > before:
                deck.pop()
        if self.pending:
            for _ in range(_ROUNDS):
                if self._command(None, 0):
                    self._compare()
                    return
            self._fault("the study does not come to its end", "")

    def _forget(self) -> None:
        for folder in self.forget:
            shutil.rmtree(self.repository.home / folder, ignore_errors=True)
        self.repository.moved()

    def _command(self, kind: str | None, delay: float) -> bool:
        """Give the command, and strike it with ``kind``; True if it was not struck and came to its end."""
        process, log = self._start()
        begun = time.monotonic()
        while kind and process.poll() is None and time.monotonic() - begun < delay:
            time.sleep(0.05)
        if kind is None or process.poll() is not None:
            return self._judge(process.wait(), log.read_text(), explained=True) == 0
        run = faults.Run(self.repository, process, self.random, self._again, self._fault, self.mounted)
        strike = self.kinds[kind](run)
        explained = next(strike, None)
        if explained is None:
            self._judge(process.wait(), log.read_text(), explained=False)
            return False
        self.struck[kind] += 1
        self.pending.append(kind)
        self.last = kind
        print(f"{self.struck.total()}: {kind} after {delay:.1f} s", flush=True)
        self._judge(process.wait(), log.read_text(), explained)
        for _ in strike:  # undone
            pass
        return False

    def _start(self) -> tuple[subprocess.Popen, Path]:
        """The command, and the file it speaks to: a pipe would make us wait for orphans, or them for us."""
        log = self.repository.root.parent / "torture.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self.repository.command(), cwd=self.repository.root, env=self.repository.environment(),
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.process = process
        return process, log

    def enough(self, *_: object) -> None:
        """End the striking; another interrupt stops at once."""
        self.strikes = 0
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop(self) -> None:
        """Kill what still runs."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _again(self) -> None:
        process, log = self._start()
        self._judge(process.wait(), log.read_text(), explained=True)

    def _judge(self, status: int, output: str, explained: bool) -> int:
        """Look at what a command said, do what it asks for; returns its status."""
        said = [line for line in output.splitlines() if line.startswith("perflow:")]
        if "Traceback" in output:
            self._fault("a traceback", output[max(0, output.index("Traceback") - 1000) :][:6000])
        elif status and explained and not said:
            self._fault("a run failed without a word", output)
        if status and any(busy in line for line in said for busy in _BUSY):
            self.waited += 1  # an orphan still holds its row, or a killed run its lock: wait and try again
            time.sleep(3)
        elif status:
            print("".join(f"   {line[:300]}\n" for line in said[-2:]), end="", flush=True)
            self._delete(said)
        return status

    def _delete(self, said: list[str]) -> None:
        """Delete what the lines say is to be deleted."""
        for line in said:
            named = re.search(r"(\S*/\S+): .*; delete (\S+) and run", line)
            if not named:
                continue
            path = Path(named[1] if named[2] == "it" else named[2])
            for place in (self.repository.home / path, self.repository.root / path):
                if place.is_file():
                    with contextlib.suppress(OSError):  # the disk may be read-only at the time
                        place.unlink()
                    self.deleted += 1
                    print(f"   deleted as told: {path}", flush=True)

    def _compare(self) -> None:
        self.finished += 1
        found, faults_before = self.repository.hashes(), len(self.faults)
        for name in sorted(self.reference.keys() | found.keys()):
            if self.reference.get(name) != found.get(name):
                self._fault(f"{name} differs", "")
        if self.repository.planned():
            self._fault("something is left to do", str(self.repository.planned()))
        if len(self.faults) == faults_before:
            self.survived.update(self.pending)
        self.pending, self.last = [], "no strike"
        print(f"finished {self.finished} times, faults so far: {len(self.faults)}", flush=True)

    def _fault(self, what: str, output: str) -> None:
        kind = self.last
        if kind in self.pending:
            self.pending.remove(kind)
        self.faults.append(f"{what} ({kind})")
        print(f"FAULT: {what} ({kind})\n{output[-6000:]}", flush=True)

    def summary(self) -> dict[str, Any]:
        """The counts by kind, and what else became of it."""
        skipped = {kind: "no file system can be mounted here" for kind in self.asked if kind not in self.kinds}
        return {
            "struck": {kind: self.struck[kind] for kind in self.kinds},
            "survived": {kind: self.survived[kind] for kind in self.kinds},
            "not tried": skipped, "finished with the reference's bytes": self.finished,
            "waited for an orphan or a lock": self.waited, "files deleted as told": self.deleted, "faults": self.faults,
        }  # fmt: skip


def table(summary: dict[str, Any]) -> str:
    """The counts by kind, in Markdown."""
    struck, survived = summary["struck"], summary["survived"]
    rows = [(kind, str(struck[kind]), str(survived[kind])) for kind in struck]
    rows += [(kind, f"not tried: {why}", "") for kind, why in summary["not tried"].items()]
    rows.append(("**total**", f"**{sum(struck.values())}**", f"**{sum(survived.values())}**"))
    lines = ["| struck by | times | survived |", "|---|---:|---:|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def machine() -> str:
    """Cores, system and the versions that matter."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "snakemake", "mlflow"))
    system = f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, {platform.machine()}, {system}, {versions}"


def main() -> int:
    """Parse, run, print the counts; status 1 if anything was not survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="workflow/studies/tiny.yaml", help="the study [tiny]")
    parser.add_argument("--kills", type=int, default=100, help="how often to strike [100]")
    parser.add_argument("--longest", type=float, default=40, help="seconds before a strike, at most [40]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds [0]")
    parser.add_argument("--kinds", default="", help="words of the kinds to try, with commas [all]")
    parser.add_argument(
        "--begin", type=Path, help="a copy of the repository with a finished study, instead of a fresh one"
    )
    parser.add_argument(
        "--forget", nargs="+", default=["data", "results", "reports"],
        help="what is deleted of a finished study before it is struck again [data results reports]",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="write the counts there as JSON, and beside it as Markdown (.md)")
    given = parser.parse_args()
    mounted = faults.enter_namespace("tests.workflow.torture")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        if mounted:
            faults.mount_room(clone)
        if given.begin:
            shutil.copytree(given.begin, clone, symlinks=True, dirs_exist_ok=True)
            repository = Repository(clone, given.study).moved()
        else:
            repository = copy_repository(ROOT, clone, given.study)
        begun = time.monotonic()
        repository.run()
        print(f"reference made in {time.monotonic() - begun:.0f} s", flush=True)
        campaign = Campaign(repository, given.seed, mounted, given.kinds, given.forget)
        signal.signal(signal.SIGINT, campaign.enough)
        try:
            campaign.run(given.kills, given.longest)
        except KeyboardInterrupt:
            print("stopped; the counts so far:")
        finally:
            campaign.stop()
            if mounted:
                subprocess.run(["umount", "--lazy", clone], check=False)
    about = {"study": given.study, "seed": given.seed, "longest": given.longest, "machine": machine()}
    summary = about | campaign.summary()
    print(json.dumps(summary, indent=1), table(summary), sep="\n")
    if given.out:
        given.out.write_text(json.dumps(summary, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(table(summary) + "\n")
    return 1 if campaign.faults else 0


if __name__ == "__main__":
    sys.exit(main())
