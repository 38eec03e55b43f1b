"""clean: what lies below a study's home and nothing names any more."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from perflow import artifacts, record
from perflow.config import TABLES, Study, places
from perflow.errors import PerflowError
from perflow.metrics import CLASSIFIER

_FOLDERS = {"splits": "data"} | {name: f"results/{name}" for name in
            ("prompts", "bases", "extractors", "latents", "adapters", "pairs", "students", "samples",
             "transfers")}  # fmt: skip
"""Tables whose rows have a folder each, and what holds them."""
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")


class Leftover(NamedTuple):
    """A file or folder that may go, its bytes, and why."""

    path: Path
    size: int
    why: str


def leftovers(study: Study, home: Path) -> list[Leftover]:
    """What the study does not name: rows that were dropped, and what stopped jobs and earlier specs left.

    Nothing of a row that a process works on, and nothing that a run could still resume. Only the folders that
    the workflow writes are looked at, and no other study's home.
    """
    busy = {(table, name) for folder, table, name in record.states(home) if artifacts.in_use(folder)}
    named = {table: {*getattr(study, table)} | {name for at, name in busy if at == table} for table in TABLES}
    named["students"] |= named["deltas"]
    found = [
        *_dropped(home, named),
        *_features(study, home),
        *_states(study, home, busy),
        *_stray(study, home, busy),
        *_temporaries(home),
    ]
    return [Leftover(path, _size(path), why) for path, why in sorted(dict(found).items())]


def remove(home: Path, found: list[Leftover]) -> None:
    """Delete ``found``; PerflowError if a run is at work in this home."""
    with _alone(home):
        for path, _, _ in found:
            held = artifacts.locked(path) if path.parent.name == "state" else contextlib.nullcontext()
            with held:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the lock that a run of the workflow holds."""
    with open(home / ".perflow.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise PerflowError(f"{home}: a run is at work here; wait for it or stop it, and clean again") from None
        if any((home / ".snakemake/locks").glob("*")):
            raise PerflowError(f"{home}: Snakemake is at work here, or was killed; run the study again, then clean")
        yield


def _dropped(home: Path, named: dict[str, set[str]]) -> Iterator[tuple[Path, str]]:
    """Folders, specs, metrics and logs of rows that the study does not name."""
    why = "no row of the study"
    for table, folder in _FOLDERS.items():
        for path in _inside(home / folder):
            made = table != "splits" or (path / "manifest.json").is_file()  # data/ may hold a user's own
            if path.is_dir() and path.name not in named[table] and made:
                yield path, why
    for path in _inside(home / "results/metrics"):
        if path.name.removesuffix(".json").removesuffix(".cost") not in named["evaluations"]:
            yield path, why
    for table, verb in places.VERBS.items():
        for folder in (places.SPECS / table, Path("logs") / verb):
            for path in _inside(home / folder):
                if path.stem not in named[table]:
                    yield path, why


def _features(study: Study, home: Path) -> Iterator[tuple[Path, str]]:
    """What large feature networks saw, where the study has none."""
    if all(row.kind == CLASSIFIER for row in study.extractors.values()):
        for path in _inside(home / places.FEATURES):
            yield path, "features of a network that the study does not have"


def _states(study: Study, home: Path, busy: set[tuple[str, str]]) -> Iterator[tuple[Path, str]]:
    """State folders that no run will resume."""
    for folder, table, name in record.states(home):
        if (table, name) in busy:
            continue
        if table not in TABLES or name not in getattr(study, table):
            yield folder, "the state of a stopped job, of no row of the study"
        elif _current(study, home, table, name):
            yield folder, "the state of a stopped job, of a row that is made"


def _stray(study: Study, home: Path, busy: set[tuple[str, str]]) -> Iterator[tuple[Path, str]]:
    """Files in the folder of a row that is made, which its records do not name."""
    for table in _FOLDERS:
        for name in getattr(study, table):
            tables = (table, "deltas") if table == "students" else (table,)
            if any((at, name) in busy or not _current(study, home, at, name) for at in tables):
                continue
            records = [home / places.record(at, name) for at in tables]
            try:
                keep = {path for file in records for path in (file, *record.files(file, record.read(file)))}
            except PerflowError:  # a manifest that was altered names nobody's files; verify says so
                continue
            for path in records[0].parent.rglob("*"):
                if not path.is_dir() and path not in keep:
                    yield path, "not of this row any more"


def _current(study: Study, home: Path, table: str, name: str) -> bool:
    """Whether a row was made for the spec it has now."""
    try:
        content = record.read(home / places.record(table, name))
    except PerflowError:
        return False
    return content["spec"] == artifacts.spec_hash(study.spec(table, name))


def _temporaries(home: Path) -> Iterator[tuple[Path, str]]:
    """Half-written files whose writer is gone."""
    for folder in ("data", "results", "reports"):
        for path in (home / folder).rglob(".*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and not _alive(int(match.group(1))):
                yield path, "half written by a stopped job"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder, temporary files apart."""
    return [path for path in folder.iterdir() if not _TEMPORARY.fullmatch(path.name)] if folder.is_dir() else []


def _size(path: Path) -> int:
    files = [path] if path.is_symlink() or path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if not file.is_dir() or file.is_symlink())
