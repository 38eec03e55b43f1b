"""Files that are complete or absent, and that name themselves: the one door to safetensors.

Every tensor file carries one metadata key, ``perflow``, whose value is sorted JSON: safetensors
writes several keys in an order that changes from process to process, one key keeps bytes stable.
Nothing here imports torch until tensors are read or written.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, NamedTuple

from perflow.errors import PerflowError, refused, unwritable

if TYPE_CHECKING:
    import torch

_KEY = "perflow"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_EXPANSION = 100
"""How many times larger a zip's members may be than the zip."""


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
    if not os.path.isfile(path):  # False too for a name that no file can have
        raise PerflowError(f"{path}: missing; delete {made_by} and run again to rebuild it")
    if sha256_file(path) != sha256:
        raise PerflowError(
            f"{path}: altered or truncated since it was made (its sha256 differs); delete {made_by} and run again"
        )
    return Path(path)


def beside(path: str | Path, entry: Any, verify: bool = True) -> Path:
    """The file that ``entry``, ``{"file": …, "sha256": …}`` of the manifest ``path``, names below its folder.

    PerflowError as of ``verify_file`` (unless another process is to ``verify`` it), and for an entry of another form
    or one that points elsewhere.
    """
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("file"), str)
        or not isinstance(entry.get("sha256"), str)
    ):
        raise PerflowError(f"{path}: names a file without its sha256; delete it and run again")
    name = Path(entry["file"])
    if name.is_absolute() or ".." in name.parts:
        raise PerflowError(f"{path}: names '{name}', which is not below its folder; delete it and run again")
    file = Path(path).parent / name
    return verify_file(file, entry["sha256"], path) if verify else file


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
def atomic(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it at the end, removed on any error.

    What is not ``durable`` may be empty after a power cut: for a file that is compared and written again by every run.
    PerflowError naming ``path`` if there is no room for it, or no right to write there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.chmod(0o644)  # some writers make files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:  # what is raised while bytes are written names no file
        if refused(error) and (error.filename is None or Path(error.filename) in (temporary, *path.parents)):
            raise unwritable(path, error.strerror) from None
        raise
    finally:
        with contextlib.suppress(OSError):  # on a file system that became read-only it stays; clean knows it
            temporary.unlink(missing_ok=True)


def dumps(value: Any) -> str:
    """The one JSON form of this project: sorted keys, indented, ends with a newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: str | Path, text: str, durable: bool = True) -> None:
    """Write ``text`` atomically; ``durable`` as of ``atomic``."""
    with atomic(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as sorted JSON, atomically."""
    write_text(path, dumps(value))


def loads(text: str) -> Any:
    """The value of a JSON text; ValueError for any other text, NaN, infinity and halves of characters included."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        if re.search(r"\\u[dD]", text):
            dumps(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; PerflowError naming the file if it is missing or not JSON."""
    try:
        return loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise PerflowError(f"{path}: not valid JSON ({error}); delete it and run again") from None


def read_object(path: str | Path, what: str, **keys: type | UnionType) -> dict[str, Any]:
    """Read a JSON object that has ``keys`` (name=type); PerflowError saying that the file is not ``what``."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise PerflowError(f"{path}: not {what}; delete it and run again")
    return has(content, path, what, **keys)


def has(content: dict[str, Any], path: str | Path, what: str, **keys: type | UnionType) -> dict[str, Any]:
    """``content`` if it has ``keys`` (name=type); PerflowError naming the file it was read from otherwise."""
    for key, kind in keys.items():
        if not isinstance(content.get(key), kind):
            found = "is missing" if key not in content else f"is {type(content[key]).__name__}"
            raise PerflowError(f"{path}: not {what} ('{key}' {found}); delete it and run again")
    return content


def write_jsonl(path: str | Path, rows: list[dict]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object a line; PerflowError naming the file if it is broken."""
    try:
        rows = [loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise PerflowError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise PerflowError(f"{path}: not valid JSON lines ({error}); delete it and run again") from None
    if not all(isinstance(row, dict) for row in rows):
        raise PerflowError(f"{path}: not one JSON object a line; delete it and run again")
    return rows


def spec_hash(spec: Mapping[str, Any]) -> str:
    """The identity of a row: sha256 of its spec's canonical JSON."""
    return sha256_bytes(dumps(spec).encode())


def read_spec(path: str | Path) -> Spec:
    """Read results/specs/<table>/<row>.json; PerflowError naming the file if it is not a spec."""
    what = "a perflow spec, which the workflow or perflow plan --write writes"
    content = read_object(path, what, table=str, name=str, seed=int, row=dict)
    if Path(content["name"]).name != content["name"]:
        raise PerflowError(f"{path}: not {what} ('{content['name']}' is no row's name)")
    return Spec(content["table"], content["name"], content["seed"], content["row"], spec_hash(content))


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> None:
    """Write a safetensors file atomically, with ``header`` as its single metadata key."""
    from safetensors.torch import save_file

    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary, writing(path):
        save_file(content, temporary, metadata={_KEY: json.dumps(header, sort_keys=True, ensure_ascii=False)})


@contextlib.contextmanager
def understood(path: str | Path, what: str) -> Iterator[None]:
    """Turn what content of another form raises, where it is used, into one line that names the file it came from."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise PerflowError(f"{path}: not {what} ({said}); delete it and run again") from error


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what safetensors, and tokenizers, raise on a full disk into one line that names ``path``."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise unwritable(path, error) from None
    except Exception as error:  # tokenizers has no kind of its own, only Rust's text of the system's refusal
        code = re.search(r"\(os error (\d+)\)$", str(error))
        if type(error) is not Exception or not code or not refused(OSError(int(code[1]), "")):
            raise
        raise unwritable(path, error) from None


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it, if there is one; OSError naming what may not be removed."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a safetensors file: tensors and header.

    PerflowError naming the file if it is broken, or if its header holds ``sha256``, the hash of its own
    content, and the tensors are others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PerflowError(f"{path}: not readable as tensors ({error}); delete it and run again") from None
    if "sha256" in header and header["sha256"] != tensor_hash(tensors):
        raise PerflowError(
            f"{path}: altered since it was made (its tensors do not match its header); delete it and run again"
        )
    return tensors, header


def holds(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether ``path`` is whole and was made for ``header``: a shard that need not be made again."""
    if not path.is_file():
        return False
    try:
        found = read_tensors(path)[1]
    except PerflowError:
        return False
    return {key: value for key, value in found.items() if key != "sha256"} == header


def tensors_beside(path: str | Path, entry: Any, *names: str) -> dict[str, torch.Tensor]:
    """The tensors of the file that ``entry`` of the manifest ``path`` names; at least ``names``."""
    file = beside(path, entry)
    tensors, _ = read_tensors(file)
    if absent := [name for name in names if name not in tensors]:
        raise PerflowError(f"{file}: lacks '{absent[0]}'; delete {path} and run again")
    return tensors


class Place(NamedTuple):
    """Where one tensor of a safetensors file lies: its element type, shape, and first byte."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def layout(path: str | Path) -> dict[str, Place]:
    """The place of every tensor of a safetensors file, none of them read; PerflowError if the file is broken."""
    import torch
    from safetensors import SafetensorError, safe_open

    dtypes = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16,
              "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}  # fmt: skip
    try:
        with safe_open(path, framework="numpy") as file:  # the library checks that the places fit the file
            names = list(file.keys())
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        found = {name: header[name] for name in names}
        return {
            name: Place(dtypes[at["dtype"]], tuple(at["shape"]), 8 + length + at["data_offsets"][0])
            for name, at in found.items()
        }
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise PerflowError(f"{path}: not readable as tensors ({error}); delete it and run again") from None


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a safetensors file, without torch; {} for a file that is not perflow's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = loads((file.metadata() or {}).get(_KEY, "{}"))
    except FileNotFoundError:
        raise PerflowError(f"{path}: no such file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise PerflowError(f"{path}: not a readable safetensors file ({error}); delete it and run again") from None
    if not isinstance(header, dict):
        raise PerflowError(f"{path}: its header is no JSON object; delete it and run again")
    return header


@contextlib.contextmanager
def archiving(path: str | Path) -> Iterator[Callable[[str, bytes], None]]:
    """Write a zip with fixed times and no compression (its members are compressed already), member by member: what is
    yielded takes a name and its bytes.

    It may take hours, and who is killed meanwhile leaves much behind: the next one, who holds the row, removes it.
    """
    for left in Path(path).parent.glob(f".{glob.escape(Path(path).name)}.*.tmp"):
        left.unlink(missing_ok=True)
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        yield lambda name, data: archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), data)


def write_archive(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Write a zip as ``archiving`` does, members in name order, shorter names first."""
    with archiving(path) as add:
        for name in sorted(files, key=_in_order):
            add(name, files[name])


def _in_order(name: str) -> tuple[int, str]:
    """Numbered names in the order of their numbers, also after 99999.png."""
    return len(name), name


class Archive(Sequence[bytes]):
    """The members of a zip in name order, shorter names first, each read when it is asked for, by any thread.

    Nothing is extracted. PerflowError naming the file if it is broken, encrypted, or expands to more than pictures can.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        with self._understood():
            self._archive = zipfile.ZipFile(path)
            self._members = sorted(self._archive.infolist(), key=lambda member: _in_order(member.filename))
            if any(member.flag_bits & 1 for member in self._members):
                raise zipfile.BadZipFile("encrypted")
            if sum(member.file_size for member in self._members) > _EXPANSION * (os.path.getsize(path) + 1024):
                raise zipfile.BadZipFile(f"it expands to more than {_EXPANSION} times its size")

    @property
    def names(self) -> list[str]:
        """Of the members, in order."""
        return [member.filename for member in self._members]

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, number: Any) -> Any:
        with self._understood():
            return self._archive.read(self._members[number])

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PerflowError(f"{self._path}: cannot be read ({error.strerror})") from None
        except (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError, OverflowError) as error:
            raise PerflowError(f"{self._path}: not a readable archive ({error}); delete it and run again") from None


def read_archive(path: str | Path) -> dict[str, bytes]:
    """Read a zip into memory, by name; PerflowError as of ``Archive``."""
    archive = Archive(path)
    return dict(zip(archive.names, archive, strict=True))


def in_use(folder: str | Path) -> bool:
    """Whether a process holds ``folder`` by ``locked``."""
    try:
        with open(Path(folder) / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


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
