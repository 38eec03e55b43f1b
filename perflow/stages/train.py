"""train: the student starts from its base, or from another student, and learns from the window pairs."""

from __future__ import annotations

import copy
from collections.abc import Generator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from perflow import artifacts, methods
from perflow.artifacts import Spec
from perflow.config.rows import Student
from perflow.core.guidance import told
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator, per_item, step_generator
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.loop import Loop, Step, team
from perflow.methods.method import Method
from perflow.models import embedding, handle, low_rank
from perflow.pairs import PairBatch, PairCache


def train(
    spec: Spec,
    start: Path,
    pairs: Path,
    out: Path,
    state: Path,
    device: str = "cpu",
    accumulate: int = 1,
    checkpointing: bool = False,
    compile: bool = False,
    perceptual: Path | None = None,
) -> Generator[Step, None, dict[str, float]]:
    """Write ``out``, the student's averaged weights (fp32), and ``curve.jsonl`` beside it.

    ``start`` is the handle of the model whose weights it starts from: its base, or a student of the same base.
    ``perceptual`` is the network by which a method that asks tells how far apart two images look.
    The batch is a function of (seed, step), so the same command after an interruption ends with the
    same bytes. PerflowError if the pairs are of another base or other windows.

    Where and in how many pieces it is computed is no matter of the row, and changes sums by rounding only: several
    processes of accelerate each take their slice of every batch, in ``accumulate`` passes; ``checkpointing`` keeps
    less of a forward pass and computes it again; ``compile`` compiles the network. The main process alone writes.
    """
    row = Student.model_validate(spec.row)
    model = handle.load(start, device)
    own, processes = team(device)
    cache = PairCache.load(pairs, device, share=slice(own, None, processes), reads=model.base.condition)
    _check(row, model, cache, pairs)
    flow = PiecewiseFlow(
        model.base.schedule, Windows(tuple(row.edges)), row.path, row.prediction, model.base.prediction
    )
    method = methods.make(row.method)
    apart = _apart(spec.name, method, perceptual, model, device)
    unet = copy.deepcopy(model.unet).requires_grad_(True)
    if row.told is not None and model.told is None:
        embedding.insert(unet, row.told.size)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    if row.rank is not None:
        low_rank.insert(unet, row.rank, generator(spec.seed, "train-rank", row.seed))
    if compile:
        unet.compile()
    loop = Loop(unet, row.training, state, "train", device)
    target = Learner(model.base.network(loop.ema), flow)

    def loss(network: nn.Module, step: int, share: slice) -> Tensor:
        rng = step_generator(row.training.batch, share, spec.seed, "train", row.seed, step)
        chosen = per_item(row.training.batch, rng, lambda n: torch.randint(len(cache), (n,), generator=rng))
        return method.loss(Learner(model.base.network(network), flow, apart), target, _asked(row, cache, chosen), rng)

    yield from loop.run_shared(loss, row.training.batch, accumulate)
    counts = {
        "student_passes": row.training.steps * row.training.batch * method.passes,
        "activation_mib": round(loop.activation_bytes / 2**20, 3), "processes": processes,
    }  # fmt: skip
    if not loop.main:
        return counts
    weights = low_rank.merged(loop.ema)
    header = {
        "spec": spec.hash, "base": {"name": row.base, "sha256": model.base_sha256}, "steps": row.training.steps,
        "pairs": artifacts.sha256_file(pairs), "sha256": artifacts.tensor_hash(weights),
    }  # fmt: skip
    artifacts.write_jsonl(out.parent / "curve.jsonl", loop.curve)
    artifacts.write_tensors(out, weights, header)
    return counts


def _apart(name: str, method: Method, path: Path | None, model: handle.Model, device: str) -> Any:
    """How far apart latents look, for a method that asks; None for any other."""
    asked = getattr(method, "perceptual", None)
    if (asked is None) != (path is None):
        raise PerflowError(f"{name}: its method asks {asked or 'no network'}, with {path or 'no'} --perceptual given")
    if asked is None:
        return None
    apart = resolve_name("perflow.metrics.perceived:apart")  # by name: rows without it do not depend on its code
    return apart(asked, path, model.base.pixels, device)


def _asked(row: Student, cache: PairCache, chosen: Tensor) -> PairBatch:
    """The pairs ``chosen``, with what the student's network is told: each one's guidance, if it is told that."""
    batch = cache.batch(chosen)
    if row.told is None:
        return batch
    return batch._replace(condition=told(batch.condition, cache.guidance[chosen], row.told.size))


def _check(row: Student, model: handle.Model, cache: PairCache, path: Path) -> None:
    found = cache.manifest["base"]
    if found["sha256"] != model.base_sha256:
        raise PerflowError(
            f"{path}: made on another base ({found['name']}, {found['sha256'][:12]}) than that of the model"
            f" '{model.name}', which the student starts from ({model.base_sha256[:12]}); delete it and run again"
        )
    if cache.manifest["edges"] != row.edges:
        raise PerflowError(f"{path}: pairs of the windows {cache.manifest['edges']}, the student has {row.edges}")
    if model.told is not None and (row.told is None or row.told.size != model.told["size"]):
        raise PerflowError(f"{path}: '{model.name}', which it starts from, is told its guidance, and must stay so")
    if (row.told is None) != (cache.guidance is None):
        has = "one" if cache.guidance is None else "its own"
        raise PerflowError(f"{path}: each pair has {has} guidance, and the student is {'not ' * (not row.told)}told it")
