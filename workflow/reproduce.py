"""Run a study with Snakemake, alone in its folder: what ``make reproduce``, ``make demo`` and ``dvc repro`` do.

The study of params.yaml has its home in the repository; any other has studies/<file name>/. A lock of
our own tells a second run who is at work; whoever gets it knows that a lock Snakemake left is stale.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import record

ROOT = Path(__file__).resolve().parents[1]
_SNAKEMAKE = """
import signal
try:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import snakemake.cli
    snakemake.cli.main()
except KeyboardInterrupt:
    raise SystemExit(130)
finally:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
"""
"""Snakemake, deaf to Ctrl-C while it starts and ends, when it would answer with a traceback: we end it ourselves."""
_ROOM = 2**20
"""Bytes that must be free where a study lies."""


def _taken(lock: TextIO) -> bool:
    """Whether the lock is ours within a few seconds: a killed Snakemake takes a moment to be gone."""
    for _ in range(50):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _unwritable(place: object, reason: object) -> str:
    """The line for what cannot be written."""
    advice = "make room or allow writing there, and run the same command again"
    return f"perflow: {place}: cannot be written ({reason}); {advice}"


def _check_room(home: Path) -> None:
    """Exit with one line where Snakemake could not even keep its own files, of which it would say so at length."""
    own = home / ".snakemake"
    own.mkdir(parents=True, exist_ok=True)
    for folder in (home, own, *own.glob("*/")):
        if folder.is_dir() and not os.access(folder, os.W_OK):
            sys.exit(_unwritable(folder, "read-only"))
    if shutil.disk_usage(home).free < _ROOM:
        sys.exit(_unwritable(home, f"less than {_ROOM // 2**20} MiB left"))


def _make_folders(home: Path) -> None:
    """Outputs of dvc.yaml that a study without settings leaves empty."""
    for folder in (home / "results" / "adapters", home / "results" / "transfers"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(_unwritable(folder, error.strerror))


def _run(command: list[str], **options: Any) -> int:
    """The status of a command that begins deaf to Ctrl-C, and is killed by us at one."""

    def deaf() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    return subprocess.run(command, check=False, cwd=ROOT, preexec_fn=deaf, **options).returncode


def _verified(study: Path, home: Path) -> int:
    """0 if every file is as it was made: Snakemake reads no file that nothing is made from, such as a table."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    verify = [sys.executable, "-m", "perflow", "verify", str(study), "--home", str(home), "--quiet"]
    return _run(verify, env={**os.environ, "PYTHONPATH": path})


def _locked(home: Path) -> bool:
    """Whether a lock of Snakemake's lies there."""
    return any((home / ".snakemake" / "locks").glob("*"))


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
    _check_room(home)
    _make_folders(home)
    snakemake = [
        sys.executable, "-c", _SNAKEMAKE, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(home),
        "--config", f"study={study}", *arguments.config, "--cores", arguments.cores, *rest,
    ]  # fmt: skip
    with open(home / ".perflow.lock", "a+") as lock:
        if not _taken(lock):
            lock.seek(0)
            sys.exit(f"perflow: {home} is at work in process {lock.read().strip() or '?'}; wait for it or stop it")
        # Snakemake inherits the lock, so it holds as long as either lives. A process id left in the file is that of
        # a run that was killed, or could not take its lock away: only then is a lock of Snakemake's stale, and not
        # another Snakemake's own.
        lock.seek(0)
        if lock.read().strip() and _locked(home) and _run([*snakemake, "--unlock", "--quiet", "all"]):
            sys.exit(f"perflow: {home}: the lock of a run that was killed is still there; run the same command again")
        another = _locked(home)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        status = _run(snakemake, pass_fds=[lock.fileno()])
        if status == 0 and not rest:
            status = _verified(study, home)
        if status == 0 and arguments.record:  # under the lock: nothing changes meanwhile
            status = record.record(ROOT, study, home)
        if another or not _locked(home):  # it ended by itself, and took its lock away
            lock.truncate(0)
        return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("perflow: stopped; the same command goes on from here")
    except OSError as error:
        sys.exit(_unwritable(error.filename or ".perflow.lock", error.strerror))
