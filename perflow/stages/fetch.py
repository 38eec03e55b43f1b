"""fetch: make splits of a data set, part by part, then their manifest."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Split
from perflow.config.splits import located
from perflow.datasets import DATASETS, Skipped, store
from perflow.errors import PerflowError
from perflow.loop import Step

_NAMED = 5
"""Unusable items that an error names."""


def fetch(spec: Spec, out: Path, state: Path, root: Path = Path()) -> Iterator[Step]:
    """Write the splits' Parquet files beside ``out``, and last ``out``, the manifest that names and hashes them.

    The manifest also carries ``attributes`` (name -> values), ``words`` (all words of captions), ``about`` (where
    items are from) and ``skipped`` (those that could not be used, and why), so that whoever reads the data set needs
    to know nothing of its source. Relative paths of the row start at ``root``. A split of more than 256 MiB of
    pixels is written in parts; those that ``state`` knows of are kept. PerflowError if more items are unusable than
    the row allows, or none is left.
    """
    row = Split.model_validate(spec.row)
    source = pkgutil.resolve_name(DATASETS[row.source])(
        **located(row.source, row.settings, root), counts=row.counts, seed=spec.seed
    )
    limit, resolution = row.settings.get("bad_items", 0), row.settings["resolution"]
    files: dict[str, list[dict[str, str]]] = {}
    skipped: dict[str, list[dict[str, str]]] = {}
    about: dict[str, Any] = {}
    columns: list[str] = []
    words: dict[str, None] = {}
    for split, count in row.counts.items():
        about[split], parts = source.about(split), store.parts(count, resolution)
        words |= dict.fromkeys(source.words(split))
        files[split], skipped[split] = [], []
        for number, items in enumerate(parts):
            name = f"{split}.parquet" if len(parts) == 1 else f"{split}-{number:05d}.parquet"
            path, note = out.with_name(name), state / f"{name}.json"
            known = {"spec": spec.hash, "about": about[split], "items": [items.start, items.stop]}
            done = _done(note, path, known)
            if done is None:
                bad: list[Skipped] = []
                rows = _usable(source.rows(split, items), bad, limit - len(skipped[split]), spec.row["dataset"])
                columns = store.write(path, rows, source.attributes())
                done = known | {
                    "file": {"file": name, "sha256": artifacts.sha256_file(path)}, "columns": columns,
                    "skipped": [item._asdict() for item in bad],
                }  # fmt: skip
                artifacts.write_json(note, done)
            columns = done["columns"]
            files[split].append(done["file"])
            skipped[split] += done["skipped"]
            yield Step(split, items.stop, count)
        if len(skipped[split]) == count:
            raise PerflowError(f"{split}: none of {count:,} items can be used: {_named(skipped[split])}")
    artifacts.write_json(out, {
        "spec": spec.hash,
        "counts": {split: count - len(skipped[split]) for split, count in row.counts.items()},
        "files": files,
        "columns": columns,
        "resolution": resolution,
        "attributes": source.attributes(),
        "words": list(words),
        "about": about,
        "skipped": skipped,
    })  # fmt: skip


def _done(note: Path, path: Path, known: dict[str, Any]) -> dict[str, Any] | None:
    """What an interrupted run noted of a part that is there, whole and of the same items; None for any other."""
    if not (note.is_file() and path.is_file()):
        return None
    found = artifacts.read_json(note)
    same = all(found.get(key) == value for key, value in known.items())
    return found if same and artifacts.sha256_file(path) == found["file"]["sha256"] else None


def _usable(
    rows: Iterable[dict[str, Any] | Skipped], bad: list[Skipped], limit: int, dataset: str
) -> Iterator[dict[str, Any]]:
    """The rows that are no ``Skipped``; those are added to ``bad``. PerflowError for more than ``limit``."""
    for row in rows:
        if not isinstance(row, Skipped):
            yield row
            continue
        bad.append(row)
        if len(bad) > limit:
            raise PerflowError(
                f"more than {limit} items cannot be used: {_named([item._asdict() for item in bad])};"
                f" mend them, or allow more with datasets.{dataset}.bad_items"
            )


def _named(skipped: list[dict[str, str]]) -> str:
    first = "; ".join(f"{item['name']}: {item['why']}" for item in skipped[:_NAMED])
    return first + (f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else "")
