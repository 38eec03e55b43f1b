"""Run a study with Snakemake, alone in its folder: what ``make reproduce``, ``make demo`` and ``dvc repro`` do.

The study of params.yaml has its home in the repository; any other has studies/<file name>/. A lock of
our own tells a second run who is at work; whoever gets it knows that a lock Snakemake left is stale.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import record

ROOT = Path(__file__).resolve().parents[1]


def _taken(lock: TextIO) -> bool:
    """Whether the lock is ours within a few seconds: a killed Snakemake takes a moment to be gone."""
    for _ in range(50):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.1)
    return False


def main() -> int:
    """Parse the command line, take the lock, run; returns Snakemake's status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="params.yaml", help="a study file [params.yaml]")
    parser.add_argument("--cores", default="all", help="cores Snakemake may use [all]")
    parser.add_argument("--config", nargs="+", default=[], help="how it is run, as parts=8 processes=8")
    parser.add_argument("--record", action="store_true", help="in the end let DVC record what was made")
    arguments, rest = parser.parse_known_args()
    study = Path(arguments.study).resolve()
    home = ROOT if study == ROOT / "params.yaml" else ROOT / "studies" / study.stem
    if arguments.record:
        if rest:
            parser.error(f"only a whole run is recorded: --record does not go with {' '.join(rest)}")
        record.check(ROOT, study)
    home.mkdir(parents=True, exist_ok=True)
    snakemake = [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(home),
        "--config", f"study={study}", *arguments.config, "--cores", arguments.cores, *rest,
    ]  # fmt: skip
    with open(home / ".perflow.lock", "a+") as lock:
        if not _taken(lock):
            lock.seek(0)
            sys.exit(f"perflow: {home} is at work in process {lock.read().strip() or '?'}; wait for it or stop it")
        # Snakemake inherits the lock, so it holds as long as either lives. A process id left in the file is that of
        # a run that was killed: only then is a lock of Snakemake's stale, and not another Snakemake's own.
        lock.seek(0)
        if lock.read().strip() and any((home / ".snakemake" / "locks").glob("*")):
            unlocked = subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=False, cwd=ROOT)
            if unlocked.returncode:
                sys.exit(
                    f"perflow: {home}: the lock of a run that was killed is still there; run the same command again"
                )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        status = subprocess.run(snakemake, check=False, cwd=ROOT, pass_fds=[lock.fileno()]).returncode
        if status == 0 and arguments.record:  # under the lock: nothing changes meanwhile
            status = record.record(ROOT, study, home)
        if status >= 0:  # it ended by itself, and took its lock away
            lock.truncate(0)
        return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("perflow: stopped; the same command goes on from here")
