"""depict: a study's prompts drawn by a diffusers pipeline of the user's own, so that its images can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from perflow import artifacts
from perflow.core.rng import generator
from perflow.errors import PerflowError
from perflow.images import png
from perflow.integrations import pictures
from perflow.metrics.observed import Drawn

_CHUNK = 16


def depict(
    folder: Path, against: Path, out: Path, steps: int | None, guidance: float | None, seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Write ``out``/00000.png, …: the prompts of the manifest ``against``, as many images of each as there, by the
    pipeline in ``folder`` with its own scheduler; returns how they were drawn.

    ``steps`` and ``guidance`` are the pipeline's own where None. Random numbers of image i are of (seed, i) alone.
    PerflowError if ``out`` is there, or for a folder of no pipeline that is told a prompt.
    """
    if out.exists():
        raise PerflowError(f"{out}: is there already; give another --images, or delete it")
    shown, pipe = Drawn.read(against), pictures.load(folder, device)
    asked = [text for text in shown.texts for _ in range(shown.content["per_prompt"])]
    told = shown.content.get("negatives") or [""]
    away = told * len(asked) if len(told) == 1 else [text for text in told for _ in range(shown.content["per_prompt"])]
    for first in range(0, len(asked), _CHUNK):
        items = range(first, min(first + _CHUNK, len(asked)))
        generators = [generator(seed, "depict", i) for i in items]
        part = slice(items.start, items.stop)
        images = pictures.draw(pipe, asked[part], away[part], steps, guidance, generators)
        for i, image in zip(items, images, strict=True):
            with artifacts.atomic(out / f"{i:05d}.png") as temporary:
                temporary.write_bytes(png(image))
    return {"path": str(folder), "class": type(pipe).__name__, "scheduler": type(pipe.scheduler).__name__,
            "steps": steps, "guidance": guidance, "seed": seed}  # fmt: skip
