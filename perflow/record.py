"""What was made of what: the record a stage writes last, beside its outputs (``cost.json``).

It holds the hash of the spec, of every input, of every output, and of itself. A manifest or a handle
among the outputs names further files with their hashes, so every file of a row is reached from its record.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.errors import PerflowError

_STATES = Path("results/state")
_DIGITS = 12


def write(path: Path, spec: str, inputs: Mapping[str, str], outputs: Iterable[Path], **more: Any) -> None:
    """Write the record of ``outputs``, made for the spec of hash ``spec`` from ``inputs`` (path -> sha256)."""
    made = {Path(os.path.relpath(out, path.parent)).as_posix(): artifacts.sha256_file(out) for out in outputs}
    content = {**more, "spec": spec, "inputs": dict(inputs), "outputs": made}
    artifacts.write_json(path, content | {"sha256": _hash(content)})


def read(path: Path) -> dict[str, Any]:
    """A record; PerflowError naming it if it is missing, altered or none."""
    content = artifacts.read_object(path, "a record", spec=str, inputs=dict, outputs=dict, sha256=str)
    if content["sha256"] != _hash(content) or path.read_bytes() != artifacts.dumps(content).encode():
        raise PerflowError(f"{path}: altered since it was made (its sha256 differs); delete it and run again")
    return content


def outputs(path: Path, content: Mapping[str, Any]) -> dict[Path, str]:
    """The outputs that the record ``content``, read from ``path``, holds the hashes of."""
    return {Path(os.path.normpath(path.parent / name)): sha256 for name, sha256 in content["outputs"].items()}


def check(path: Path, *names: str) -> None:
    """PerflowError if an output (one of ``names``, or any) of the record at ``path`` is not as it was made."""
    for output, sha256 in outputs(path, read(path)).items():
        if not names or output.name in names:
            artifacts.verify_file(output, sha256, made_by=output)


def files(path: Path, content: Mapping[str, Any]) -> list[Path]:
    """Every file that is reached from a record: its outputs, and what those that are there name.

    PerflowError if one that names others is not as it was made.
    """
    made = outputs(path, content)
    naming = [out for out in made if out.suffix == ".json" and out.is_file()]
    for out in naming:
        artifacts.verify_file(out, made[out], made_by=out)
    return [*made, *(out.parent / entry["file"] for out in naming for entry in named(out))]


def _hash(content: Mapping[str, Any]) -> str:
    return artifacts.sha256_bytes(artifacts.dumps({k: v for k, v in content.items() if k != "sha256"}).encode())


def named(path: Path) -> list[dict[str, Any]]:
    """The files that a manifest or a base's handle names, each ``{"file": …, "sha256": …}``; none for another file."""
    if path.suffix != ".json":
        return []
    content = artifacts.read_json(path)
    if isinstance(content, dict) and isinstance(content.get("files"), dict) and "folder" in content:
        return [{"file": f"{content['folder']}/{name}", "sha256": sha} for name, sha in content["files"].items()]
    return list(_entries(content))


def _entries(value: Any) -> Iterator[dict[str, Any]]:
    """Every ``{"file": …, "sha256": …}``, at any depth."""
    if isinstance(value, dict) and {"file", "sha256"} <= value.keys():
        yield value
        return
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(inner)


def state(spec: artifacts.Spec, inputs: Mapping[str, str]) -> Path:
    """The state folder of a row that is made from ``inputs`` (path -> sha256): other inputs have another one."""
    identity = artifacts.sha256_bytes("".join([spec.hash, *inputs.values()]).encode())
    return _STATES / f"{spec.table}-{spec.name}-{identity[:_DIGITS]}"


def states(home: Path) -> Iterator[tuple[Path, str, str]]:
    """Every state folder of a home, with the table and the name of its row."""
    for folder in sorted((home / _STATES).glob(f"*-*-{'[0-9a-f]' * _DIGITS}")):
        table, _, rest = folder.name.partition("-")
        yield folder, table, rest[: -_DIGITS - 1]
