"""prompts: what every model is asked to draw, and what guidance leads away from."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config import rows
from perflow.config.splits import located, rooted
from perflow.datasets import DATASETS
from perflow.datasets.columns import read_columns
from perflow.errors import PerflowError


def prompts(spec: Spec, out: Path, root: Path = Path()) -> None:
    """Write ``out``: ``prompts``, each a caption with what it says of the data set's attributes, and ``negatives``,
    one a prompt.

    They are prompts of a list, or the first different captions of a split, which no number of its items moves.
    Relative paths of the row start at ``root``. PerflowError if there are fewer than the row asks for.
    """
    row = rows.Prompts.model_validate(spec.row)
    chosen, negatives, where = _listed(row, root) if row.list else _captions(row, spec.seed, root)
    if len(chosen) < row.count:
        raise PerflowError(f"sampling.prompts: {row.count:,} asked for, {where} has {len(chosen):,} different ones")
    artifacts.write_json(out, {"spec": spec.hash, "prompts": chosen, "negatives": negatives, "from": where})


def _captions(row: rows.Prompts, seed: int, root: Path) -> tuple[list[dict[str, Any]], list[str], str]:
    given = row.captions
    source = pkgutil.resolve_name(DATASETS[given.source])(
        **located(given.source, given.settings, root), counts={}, seed=seed
    )
    chosen = _first_different(source.captions(row.split), row.count)
    return chosen, [""] * len(chosen), f"the split '{row.split}' of the data set '{given.dataset}'"


def _listed(row: rows.Prompts, root: Path) -> tuple[list[dict[str, Any]], list[str], str]:
    given, path = row.list, rooted(root, row.list.file)
    needed = [given.column, *([given.negative_column] if given.negative_column else [])]
    columns = read_columns(path, needed)
    texts, away = columns[given.column], columns[given.negative_column] if given.negative_column else None
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise PerflowError(f"{path}: prompt {number} is no text; got {text!r}")
    found = _first_different(
        (
            {"text": text.strip(), "negative": (away[i] or "") if away else given.negative}
            for i, text in enumerate(texts)
        ),
        row.count,
    )
    return [{"text": one["text"]} for one in found], [str(one["negative"]).strip() for one in found], path.name


def _first_different(captions: Iterable[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first ``count`` with different texts, or as many as there are."""
    chosen: dict[str, dict[str, Any]] = {}
    for caption in captions:
        chosen.setdefault(caption["text"], caption)
        if len(chosen) == count:
            break
    return list(chosen.values())
