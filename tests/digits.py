"""All splits of the digits in one manifest, for tests of stages that read several."""

from __future__ import annotations

import shutil
from pathlib import Path

from perflow.artifacts import Spec
from perflow.stages.fetch import fetch


def digits_spec(counts: dict[str, int], seed: int = 0, name: str = "data", style: str = "plain") -> Spec:
    """A spec of all splits; ``name`` stands for its hash."""
    settings = {"resolution": 16, "style": style}
    row = {"dataset": "digits", "source": "digits", "settings": settings, "counts": counts}
    return Spec("splits", "digits", seed, row, name)


def fetch_digits(out: Path, counts: dict[str, int], seed: int = 0, name: str = "data", style: str = "plain") -> None:
    """Write ``out``, the manifest."""
    state = out.parent / "state"
    list(fetch(digits_spec(counts, seed, name, style), out, state))
    shutil.rmtree(state)
