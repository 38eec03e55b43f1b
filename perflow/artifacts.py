"""Files that are complete or absent, and that name themselves: the one door to safetensors.

Every tensor file carries one metadata key, ``perflow``, whose value is sorted JSON: safetensors
writes several keys in an order that changes from process to process, one key keeps bytes stable.
Nothing here imports torch until tensors are read or written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perflow.errors import PerflowError

if TYPE_CHECKING:
    import torch

_KEY = "perflow"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class Spec(NamedTuple):
    """A resolved row, as a stage reads it: the only configuration a stage gets."""

    table: str
    name: str
    seed: int
    row: dict[str, Any]
    hash: str


def sha256_bytes(data: bytes) -> str:
    """Hex sha256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes; PerflowError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None


def verify_file(path: str | Path, sha256: str, made_by: str | Path) -> Path:
    """Return ``path`` if its bytes still hash to ``sha256``.

    PerflowError naming it otherwise, and ``made_by``, the output whose absence makes the workflow
    build it again.
    """
    if not Path(path).is_file():
        raise PerflowError(f"{path}: missing; delete {made_by} and run again to rebuild it")
    if sha256_file(path) != sha256:
        raise PerflowError(
            f"{path}: altered or truncated since it was made (its sha256 differs); delete {made_by} and run again"
        )
    return Path(path)


def tensor_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash of tensor *content* (names, dtypes, shapes, bytes in name order), whatever file holds it."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{str(value.dtype).removeprefix('torch.')}|{tuple(value.shape)}|".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, removed on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # some writers make files that only their owner can read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def dumps(value: Any) -> str:
    """The one JSON form of this project: sorted keys, indented, ends with a newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as sorted JSON, atomically."""
    write_text(path, dumps(value))


def read_json(path: str | Path) -> Any:
    """Read a JSON file; PerflowError naming the file if it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise PerflowError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object a line; PerflowError naming the file if it is broken."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise PerflowError(f"{path}: not valid JSON lines ({error}); delete it and run again") from None


def spec_hash(spec: Mapping[str, Any]) -> str:
    """The identity of a row: sha256 of its spec's canonical JSON."""
    return sha256_bytes(dumps(spec).encode())


def read_spec(path: str | Path) -> Spec:
    """Read results/specs/<table>/<row>.json; PerflowError naming the file if it is not a spec."""
    content = read_json(path)
    try:
        return Spec(content["table"], content["name"], content["seed"], content["row"], spec_hash(content))
    except (KeyError, TypeError):
        raise PerflowError(
            f"{path}: not a perflow spec; specs are written by the workflow (perflow plan --write)"
        ) from None


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with ``header`` as its single metadata key."""
    from safetensors.torch import save_file

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary, writing(path):
        save_file(content, temporary, metadata={_KEY: json.dumps(header, sort_keys=True, ensure_ascii=False)})


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what safetensors raises on a full disk into one line that names ``path``."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise PerflowError(f"{path}: cannot be written ({error}); make room, and run the same command again") from None


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a safetensors file: tensors and header.

    PerflowError naming the file if it is broken, or if its header holds ``sha256``, the hash of its own
    content, and the tensors are others.
    """
    from safetensors.torch import load_file

    header = read_header(path)
    tensors = load_file(path)
    if "sha256" in header and header["sha256"] != tensor_hash(tensors):
        raise PerflowError(
            f"{path}: altered since it was made (its tensors do not match its header); delete it and run again"
        )
    return tensors, header


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a safetensors file, without torch; {} for a file that is not perflow's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads((file.metadata() or {}).get(_KEY, "{}"))
    except FileNotFoundError:
        raise PerflowError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise PerflowError(f"{path}: not a readable safetensors file ({error}); delete it and run again") from None


def write_archive(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a zip with fixed times and no compression (its members are compressed already)."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), files[name])


def read_archive(path: str | Path) -> dict[str, bytes]:
    """Read a zip into memory, members in name order; PerflowError naming the file if it is broken."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in sorted(archive.namelist())}
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise PerflowError(f"{path}: not a readable archive ({error}); delete it and run again") from None


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[Path]:
    """Hold ``folder`` alone while the block runs.

    The kernel drops the lock when its holder dies, so a lock is never stale; a second process is
    told who holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise PerflowError(f"{folder}: in use by {holder}; wait for it, or stop it, and run again") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield folder
