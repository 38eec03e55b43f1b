"""Pretrained checkpoints, wherever they are, as a diffusers pipeline folder of the study's own.

Only safetensors and plain text are copied; no code that comes with a checkpoint runs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perflow import artifacts, hub
from perflow.errors import PerflowError
from perflow.models import PIPELINES
from perflow.models import folder as pipeline_folder

if TYPE_CHECKING:
    from perflow.config.rows import Source


def take(source: Source, into: Path, root: Path = Path()) -> None:
    """Make ``into`` the pipeline folder of ``source``, whose relative paths start at ``root``.

    PerflowError naming what is missing.
    """
    artifacts.remove_folder(into)  # what an interrupted run left
    into.mkdir(parents=True)
    SOURCES[source.kind](source, into, root)


def _folder(source: Source, into: Path, root: Path) -> None:
    base = root / os.path.expanduser(str(source.folder))
    content = pipeline_folder.index(base)
    for part in pipeline_folder.parts(content):
        (into / part).mkdir()
        for path, name in pipeline_folder.files(base / part).items():
            shutil.copyfile(path, into / part / name)
    artifacts.write_json(into / pipeline_folder.INDEX, content)


def _file(source: Source, into: Path, root: Path) -> None:
    import diffusers
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    path, config = (root / os.path.expanduser(str(name)) for name in (source.file, source.config))
    if path.suffix != ".safetensors" or not path.is_file():
        raise PerflowError(f"{path}: not a .safetensors file; pickled checkpoints are not read")
    family = pipeline_folder.family(pipeline_folder.index(config))
    if family not in _SINGLE:
        raise PerflowError(f"{config}: single files are read of {', '.join(_SINGLE)} only; give a folder")
    try:
        pipeline = getattr(diffusers, PIPELINES[family]).from_single_file(
            str(path), config=str(config), local_files_only=True, **_SINGLE[family]
        )
    except (SingleFileComponentError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(getattr(error, "message", error)).strip().splitlines()[0]
        raise PerflowError(f"{path}: does not hold the architecture of {config} ({reason})") from None
    if unread := _unread(pipeline):
        raise PerflowError(f"{path}: does not hold the architecture of {config} (it has no {unread})")
    with artifacts.writing(into):
        pipeline.save_pretrained(into, safe_serialization=True)


def _unread(pipeline: Any) -> str | None:
    """A tensor that diffusers did not find in the file, which it leaves without values; None where all are there."""
    parts = ((name, part) for name, part in pipeline.components.items() if hasattr(part, "state_dict"))
    return next(
        (f"'{name}.{key}'" for name, part in parts for key, value in part.state_dict().items() if value.is_meta), None
    )


def _hub(source: Source, into: Path, _: Path) -> None:
    where = f"{source.hub}@{source.revision}"
    if source.origin is None:
        raise PerflowError(f"{source.hub}: no revision is chosen; write the commit that you take")
    try:
        names = hub.names(source.hub, source.revision)
        if pipeline_folder.INDEX not in names:
            raise PerflowError(f"{where}: not a diffusers pipeline (it has no {pipeline_folder.INDEX})")

        content = pipeline_folder.index(hub.download(source.hub, source.revision, pipeline_folder.INDEX).parent)
        for part in pipeline_folder.parts(content):
            (into / part).mkdir()
            for name, new in pipeline_folder.inside(part, names).items():
                shutil.copyfile(hub.download(source.hub, source.revision, name), into / part / new)
    except PerflowError as error:
        raise PerflowError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    except Exception as error:  # its own errors and those of its transport, another library with every version
        raise hub.refusal(where, error) from None
    artifacts.write_json(into / pipeline_folder.INDEX, content)


_SINGLE: dict[str, dict[str, Any]] = {
    "stable_diffusion": {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    "sdxl": {},
}
"""Families with single-file checkpoints, and the parts that such a file lacks."""

SOURCES: dict[str, Callable[[Source, Path, Path], None]] = {"folder": _folder, "hub": _hub, "file": _file}
