"""From a study's data sets to rows: a split each, what is drawn, and the files they are read from."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

from perflow.config import rows
from perflow.config.study import Study
from perflow.datasets import METADATA
from perflow.errors import PerflowError
from perflow.metrics import FOLDERS

OWN_LIST = "own"
"""The row of ``prompts`` that is a list of the user's."""


def add_splits(study: Study) -> None:
    """A row for every split of every data set."""
    for name, entry in study.datasets.items():
        for split, count in entry.counts.items():
            settings = _settings(entry, split)
            study.splits[split_row(name, split)] = rows.Split(
                dataset=name, source=entry.source, settings=settings, counts={split: count}
            )


def split_row(dataset: str, split: str) -> str:
    """The name of a split's row."""
    return f"{dataset}-{split}"


def add_prompts(study: Study, dataset: str) -> str:
    """The row of what models taught on ``dataset`` are asked to draw; returns its name."""
    sampling, entry = study.params.sampling.of(dataset), study.datasets[dataset]
    if sampling.prompt_list is not None:
        name = dataset if dataset in study.params.sampling.datasets else OWN_LIST
        study.prompts[name] = rows.Prompts(count=sampling.prompts, list=sampling.prompt_list, split=sampling.split)
        return name
    captions = rows.Captions(dataset=dataset, source=entry.source, settings=_settings(entry, sampling.split))
    study.prompts[dataset] = rows.Prompts(count=sampling.prompts, captions=captions, split=sampling.split)
    return dataset


def _settings(entry: rows.AnyDataset, split: str) -> dict[str, Any]:
    """What a source is built with for a split: nothing of it changes with another split's files or number of items,
    but that the reference keeps clear of the base's where both share a pool."""
    unsaid = {"style"} if getattr(entry, "style", None) is None else set()
    settings = entry.model_dump(mode="json", exclude={"source", "counts", "known_as"} | unsaid)
    if not isinstance(entry, rows.OwnDataset):
        return settings
    place = settings[entry.PLACE]
    if isinstance(place, dict):
        return settings | {entry.PLACE: place[split]}
    taken = entry.counts["base"] if split == "reference" and entry.hold_out is None else 0
    return settings | {"taken": taken}


def check_negative(study: Study, student: str) -> None:
    """Refuse negative prompts that a student cannot hear: its guidance is in its weights, with those of its pairs."""
    row = study.students[student]
    if row.pairs is None:  # nobody here knows what its guidance, if it has any in its weights, leads away from
        return
    pairs = study.pairs[row.pairs]
    if pairs.negative and pairs.teacher and study.students[pairs.teacher].told:
        raise PerflowError(
            f"pairs {row.pairs}: negative: its teacher '{pairs.teacher}' is told its guidance and hears no negative"
            " prompt; what its own pairs lead away from is in its weights"
        )
    given = study.params.sampling.of(study.bases[row.base].dataset).prompt_list
    taught = _guided_away_from(study, row.pairs)
    asked = "" if given is None else given.negative_column or given.negative
    each = given is not None and given.negative_column is not None
    if taught is not None and (each or asked != taught):
        said = f"the column '{asked}'" if each else repr(asked)
        raise PerflowError(
            f"sampling.prompt_list: negative prompts {said}, but the guidance of '{student}' is in its weights,"
            f" away from {taught!r} (pairs.negative); make them equal, or teach it with pairs of guidance 1"
        )


def _guided_away_from(study: Study, pairs: str) -> str | None:
    """What the guidance in a student's weights leads away from; None if there is none in them."""
    row = study.pairs[pairs]
    teacher = study.students[row.teacher] if row.teacher else None
    told = teacher is not None and teacher.told is not None
    if row.guidance != 1 and not told:
        return row.negative
    if teacher is None or teacher.pairs is None or (told and row.guidance == 1):
        return None
    return _guided_away_from(study, teacher.pairs)


def missing(study: Study, root: Path) -> str | None:
    """Which file of the user's is not there, or which commit is not chosen, in one line; None if all are."""
    for name, entry in study.datasets.items():
        for split in entry.counts if isinstance(entry, rows.OwnDataset) else ():
            if absent := [str(path) for path in files(study, split_row(name, split), root) if not path.exists()]:
                return f"datasets.{name}: no file {absent[0]}"
    sampling = study.params.sampling
    for name in (None, *sampling.datasets):
        own, place = sampling.of(name).prompt_list, f"sampling.datasets.{name}" if name else "sampling"
        if own and not rooted(root, own.file).is_file():
            return f"{place}.prompt_list.file: no file {rooted(root, own.file)}"
    for name, recipe in study.params.students.items():
        if recipe.source and not rooted(root, recipe.source.weights).exists():
            return f"students.{name}.source.weights: no file {rooted(root, recipe.source.weights)}"
    for name, real in study.params.evaluation.real.items():
        if not rooted(root, real.features).is_file():
            return f"evaluation.real.{name}.features: no file {rooted(root, real.features)}"
    return next(iter(unpinned(study)), None)


def unpinned(study: Study) -> list[str]:
    """Which checkpoints of the hub have no commit yet, and which feature networks no hash, a line each."""
    commits = [
        f"bases.{name}.source.revision: {rows.UNPINNED}; write the commit of {base.source.hub} that you take"
        for name, base in study.bases.items()
        if isinstance(base, rows.Pretrained) and base.source.revision == rows.UNPINNED
    ]
    return commits + [
        f"extractors.{name}.sha256: {rows.UNPINNED}; write that of {row.weights}"
        for name, row in study.extractors.items()
        if row.sha256 == rows.UNPINNED
    ]


def files(study: Study, split: str, root: Path) -> list[Path]:
    """What on this machine a split is read from: an edit of it makes the split anew."""
    row = study.splits[split]
    settings = located(row.source, row.settings, root)
    if row.source == "imagefolder":
        folder = Path(settings["folder"])
        return [folder, *(path for path in (folder / name for name in METADATA) if path.is_file())]
    return [Path(path) for path in settings.get("files", ())]


def located(source: str, settings: dict[str, Any], root: Path) -> dict[str, Any]:
    """The settings of a source with its paths as they are to be opened."""
    if source == "parquet":
        return settings | {"files": [str(path) for path in expanded(root, settings["files"])]}
    if source == "imagefolder":
        return settings | {"folder": str(rooted(root, settings["folder"]))}
    return settings


def rooted(root: Path, name: str) -> Path:
    """A path as it stands in params.yaml: a relative one starts at ``root``, the repository."""
    return root / os.path.expanduser(name)


def weights(row: rows.Extractor, root: Path) -> Path:
    """The file of an extractor's weights; of a folder the one that stands for it."""
    place = rooted(root, row.weights)
    return place / FOLDERS[row.kind][0] if row.kind in FOLDERS else place


def expanded(root: Path, names: list[str]) -> list[Path]:
    """Paths of params.yaml with ``*`` written out, by name; one that fits nothing stands as it is."""
    found = [
        [Path(path) for path in sorted(glob.glob(str(rooted(root, name))))] or [rooted(root, name)] for name in names
    ]
    return [path for paths in found for path in paths]
