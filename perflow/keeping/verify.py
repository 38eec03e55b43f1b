"""verify: every hash below a study's home, computed again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from perflow import artifacts, config, record
from perflow.config import TABLES, Study, places
from perflow.errors import PerflowError

STATES = OK, STALE, ALTERED, MISSING = "ok", "stale", "altered", "missing"
"""From best to worst."""
_TABLES = Path("results/tables/record.json")
_REPORT = (Path("results/tables/runs.csv"), Path("reports/report.html"), Path("reports/report.ipynb"))
"""Only their presence is checked: they hold times and MLflow's ids, and nothing is made from them. What MLflow was
told (``results/runs.json``) belongs to one machine's database and is no result: it is rightly absent after a pull."""


class Finding(NamedTuple):
    """What became of one artifact: its state, and a line for whatever is not as it was."""

    artifact: str
    state: str
    lines: list[str]


class _Findings:
    """What is found wrong with one artifact."""

    def __init__(self, artifact: str, broken: set[Path]):
        self.artifact, self.broken = artifact, broken
        self.found: list[tuple[str, str]] = []

    def add(self, state: str, path: Path, line: str) -> None:
        """Note what is wrong with a file."""
        self.broken.add(path.resolve())
        self.found.append((state, line))

    def exists(self, path: Path) -> bool:
        """Whether a file that a run would miss is there; noted if not."""
        if not path.is_file():
            self.add(MISSING, path, f"{path}: missing; run again to make it")
        return path.is_file()

    def intact(self, path: Path, sha256: Any, made_by: Path) -> bool:
        """Whether a file still has its hash; noted if not, with what to delete so that a run misses it."""
        try:
            artifacts.verify_file(path, sha256, made_by)
        except PerflowError as error:
            self.add(ALTERED if os.path.isfile(path) else MISSING, path, str(error))
            return False
        return True

    def finding(self) -> Finding:
        """The worst of it first decides the state."""
        worst = max((state for state, _ in self.found), key=STATES.index, default=OK)
        return Finding(self.artifact, worst, [line for _, line in self.found])


def verify(study: Study, home: Path) -> Iterator[Finding]:
    """Look at every artifact a study names, in the order in which they are made.

    *stale*: made for another spec or from other inputs, so the next run makes it again. *altered*: a file
    no longer has its hash. *missing*: it was never made, or a file of it is gone. What was made from a file
    that is altered or missing now is not called stale for it.
    """
    broken: set[Path] = set()
    found = _Findings("specs", broken)
    for place, content in config.specs(study, _label(home)).items():
        path = home / place
        if found.exists(path) and artifacts.sha256_file(path) != artifacts.spec_hash(content):
            found.add(STALE, path, f"{path}: not what the study says now; the next run writes it again")
    yield found.finding()
    for table in TABLES:
        for name in getattr(study, table):
            found = _Findings(f"{table}/{name}", broken)
            _recorded(found, home, places.record(table, name), artifacts.spec_hash(study.spec(table, name)))
            yield found.finding()
    found = _Findings("tables", broken)
    _recorded(found, home, _TABLES, artifacts.spec_hash(config.summary(study, _label(home))))
    yield found.finding()
    found = _Findings("report", broken)
    for place in _REPORT:
        found.exists(home / place)
    yield found.finding()


def _label(home: Path) -> str:
    """What the study's home is called in MLflow, as the workflow wrote it."""
    try:
        return artifacts.read_object(home / places.SUMMARY, "a study summary", home=str)["home"]
    except PerflowError:
        return "."


def _recorded(found: _Findings, home: Path, place: Path, spec: str) -> None:
    """Check an artifact against its record: spec, inputs, outputs, and the files and tensors these name."""
    path = home / place
    if not found.exists(path):
        return
    try:
        content = record.read(path)
    except PerflowError as error:
        found.add(ALTERED, path, str(error))
        return
    if content["spec"] != spec:
        found.add(STALE, path, f"{path}: of another spec ({content['spec'][:12]}, now {spec[:12]}); run again")
    for name, sha256 in content["inputs"].items():
        used = home / name
        if used.resolve() not in found.broken and used.is_file() and artifacts.sha256_file(used) != sha256:
            found.add(STALE, path, f"{path}: made from another {name}; run again")
    for output, sha256 in record.outputs(path, content).items():
        if found.exists(output) and found.intact(output, sha256, made_by=output):
            _inside(found, output)


def _inside(found: _Findings, output: Path) -> None:
    """Check what an intact output says of other files, and of tensors."""
    try:
        files = [output]
        for entry in record.named(output):
            file = output.parent / entry["file"]
            if found.intact(file, entry["sha256"], made_by=output):
                files.append(file)
        for file in files:
            if file.suffix == ".safetensors" and "sha256" in artifacts.read_header(file):
                artifacts.read_tensors(file)
        if output.name == "model.json" and len(files) == 1 + len(record.named(output)):
            _network(output)
    except PerflowError as error:
        found.add(ALTERED, output, str(error))


def _network(path: Path) -> None:
    """PerflowError if the network of a handle is not the one whose hash it gives."""
    from perflow import delta
    from perflow.models import handle

    content = handle.read(path)
    if content["kind"] == "base":
        sha256 = delta.identity(handle.network_tensors(path))
    else:
        sha256 = artifacts.read_header(path.parent / content["delta"]).get("student_sha256")
    if sha256 != content["sha256"]:
        raise PerflowError(f"{path}: its network does not have its sha256; delete it and run again")
