"""transfer: draw a model's trials in a setting, with the pipelines that people use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from perflow import artifacts, record, trials
from perflow.artifacts import Spec
from perflow.config import rows
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.images import edges, png
from perflow.integrations import settings
from perflow.loop import Step, counted
from perflow.models import handle

_GREY = 127


def transfer(
    spec: Spec, base: Path, model: Path, prompts: Path, out: Path, dataset: Path | None = None,
    adapter: Path | None = None, device: str = "cpu",
) -> Iterator[Step]:  # fmt: skip
    """Write what ``sample`` writes: files for each trial beside ``out``, and last ``out``, the manifest.

    ``base`` is the handle of the base that is drawn with, ``model`` the same, or that of a student whose delta is put
    into it. Noise of item i is a function of (seed, stream, i), the same for every model of the setting; so are
    the pictures that are shown, of ``dataset``: of edges the prompt's own image, to repaint that of the next prompt,
    to inpaint the left half of its own. The base's own transfer keeps them, one a prompt, as ``shown``.
    """
    row = rows.Transfer.model_validate(spec.row)
    shown_by = handle.load(base, device)
    found = handle.read(model)
    change = model.parent / found["delta"] if found["kind"] == "student" else None
    beside = _adapter(adapter) if adapter else None
    pipe = settings.pipeline(
        base.parent / handle.read(base)["folder"], row.family, row.task, device, change, row.rank, beside
    )
    windows = pipe.scheduler
    chosen, negatives = trials.read_prompts(prompts)
    texts = [prompt["text"] for prompt in chosen]
    asked = [[text for text in each for _ in range(row.per_prompt)] for each in (texts, negatives)]
    seen = _seen(row, _pictures(dataset, row.split, texts)) if row.shows else None
    shown = {} if seen is None else _shown(row, seen)
    made: dict[str, Any] = {}
    for trial in row.trials:
        own, config = trial.scheduler, shown_by.base.scheduler_config
        pipe.scheduler = settings.scheduler(own, config) if own else windows
        drawn = _blocks(pipe, trial, asked, shown, spec, shown_by.base)
        written = trials.write(out.parent, trial.model_dump(), found["sha256"], drawn, len(asked[0]), device)
        made[trial.name] = yield from counted(trial.name, written, len(asked[0]))
    artifacts.write_json(out, {
        "spec": spec.hash, "model": spec.name, "model_sha256": found["sha256"], "base": row.reference,
        "prompts": chosen, "negatives": negatives, "per_prompt": row.per_prompt, "trials": made, "flow": None,
        **({} if seen is None or row.model != row.base else {"shown": _keep(row, seen, out.with_name("shown.zip"))}),
    })  # fmt: skip


def _adapter(path: Path) -> tuple[str, Path]:
    """Kind and folder of an adapter, its files checked."""
    found = artifacts.read_object(path, "an adapter", kind=str, folder=str, files=dict)
    for entry in record.named(path):
        artifacts.beside(path, entry)
    return found["kind"], path.parent / found["folder"]


def _pictures(dataset: Path, split: str, texts: list[str]) -> np.ndarray:
    """The first image of each caption in the split, uint8 [len(texts), H, W, 3]; PerflowError for one it has not."""
    data = store.load(dataset, split)
    first: dict[str, int] = {}
    for number, text in enumerate(data["text"]):
        first.setdefault(text, number)
    if absent := [text for text in texts if text not in first]:
        raise PerflowError(f"{dataset}: the split '{split}' has no image of '{absent[0]}' to show; give it more items")
    return np.concatenate([store.images(data, range(first[text], first[text] + 1)) for text in texts])


def _seen(row: rows.Transfer, images: np.ndarray) -> np.ndarray:
    """The picture that the pipeline is shown with each prompt, made of the prompts' ``images``; both uint8."""
    if row.task == "text":
        return edges(images)
    return np.roll(images, -1, axis=0) if row.task == "image" else images


def _shown(row: rows.Transfer, seen: np.ndarray) -> dict[str, Any]:
    """What the pipeline takes besides prompts, for all items: pictures [N, C, H, W] in [0, 1] and the strength."""
    pixels = torch.from_numpy(seen).permute(0, 3, 1, 2).float().div(255).repeat_interleave(row.per_prompt, dim=0)
    if row.task == "text":
        return {"image": pixels}
    if row.task == "image":
        return {"image": pixels, "strength": row.strength}
    mask = torch.zeros_like(pixels[:, :1])
    mask[..., _half(seen) :] = 1
    return {"image": pixels, "mask_image": mask, "strength": row.strength}


def _half(images: np.ndarray) -> int:
    """The first column that is repainted."""
    return images.shape[2] // 2


def _keep(row: rows.Transfer, seen: np.ndarray, path: Path) -> dict[str, str]:
    """Write the pictures for people to look at, what is to be repainted in grey; their entry for a manifest."""
    if row.task == "inpaint":
        seen = seen.copy()
        seen[:, :, _half(seen) :] = _GREY
    artifacts.write_archive(path, {f"{i:05d}.png": png(image) for i, image in enumerate(seen)})
    return {"file": path.name, "sha256": artifacts.sha256_file(path)}


def _blocks(
    pipe: Any, trial: rows.Trial, asked: list[list[str]], shown: dict[str, Any], spec: Spec, base: Any
) -> Iterator[trials.Block]:
    """The items of prompts and negative prompts ``asked``, one each, a chunk of the base at once."""
    if isinstance(trial.guidance, list):
        raise PerflowError(f"{trial.name}: diffusers' pipelines take one guidance, got {trial.guidance}")
    total = len(asked[0])
    for first in range(0, total, base.chunk):
        items = slice(first, min(first + base.chunk, total))
        part = {name: value[items] if isinstance(value, Tensor) else value for name, value in shown.items()}
        generators = [generator(spec.seed, f"noise-{trial.stream}", i) for i in range(items.start, items.stop)]
        texts, negatives = (each[items] for each in asked)
        latents = settings.draw(pipe, texts, negatives, trial.steps, trial.guidance, generators, **part).cpu()
        trials.check_finite(spec.name, trial.name, latents)
        yield trials.Block(latents, base.decode(latents))
