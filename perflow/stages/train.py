"""train: the student starts from its base, or from another student, and learns from the window pairs."""

from __future__ import annotations

import copy
from collections.abc import Generator
from pathlib import Path

import torch
from torch import Tensor, nn

from perflow import artifacts, methods
from perflow.artifacts import Spec
from perflow.config.rows import Student
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.loop import Loop, Step
from perflow.models import handle, low_rank
from perflow.pairs import PairCache


def train(
    spec: Spec, start: Path, pairs: Path, out: Path, state: Path, device: str = "cpu"
) -> Generator[Step, None, dict[str, int]]:
    """Write ``out``, the student's averaged weights (fp32), and ``curve.jsonl`` beside it.

    ``start`` is the handle of the model whose weights it starts from: its base, or a student of the same base.
    The batch is a function of (seed, step), so the same command after an interruption ends with the
    same bytes. PerflowError if the pairs are of another base or other windows.
    """
    row = Student.model_validate(spec.row)
    model = handle.load(start, device)
    cache = PairCache.load(pairs, device)
    _check(row, model, cache, pairs)
    flow = PiecewiseFlow(
        model.base.schedule, Windows(tuple(row.edges)), row.path, row.prediction, model.base.prediction
    )
    method = methods.make(row.method)
    unet = copy.deepcopy(model.unet).requires_grad_(True)
    if row.rank is not None:
        low_rank.insert(unet, row.rank, generator(spec.seed, "train-rank", row.seed))
    loop = Loop(unet, row.training, state, "train", device)
    target = Learner(model.base.network(loop.ema), flow)

    def loss(network: nn.Module, step: int) -> Tensor:
        rng = generator(spec.seed, "train", row.seed, step)
        batch = cache.batch(torch.randint(len(cache), (row.training.batch,), generator=rng))
        return method.loss(Learner(model.base.network(network), flow), target, batch, rng)

    yield from loop.run(loss)
    weights = low_rank.merged(loop.ema)
    header = {
        "spec": spec.hash, "base": {"name": row.base, "sha256": model.base_sha256}, "steps": row.training.steps,
        "pairs": artifacts.sha256_file(pairs), "sha256": artifacts.tensor_hash(weights),
    }  # fmt: skip
    artifacts.write_jsonl(out.parent / "curve.jsonl", loop.curve)
    artifacts.write_tensors(out, weights, header)
    return {"student_passes": row.training.steps * row.training.batch * method.passes}


def _check(row: Student, model: handle.Model, cache: PairCache, path: Path) -> None:
    found = cache.manifest["base"]
    if found["sha256"] != model.base_sha256:
        raise PerflowError(
            f"{path}: made on another base ({found['name']}, {found['sha256'][:12]}) than that of the model"
            f" '{model.name}', which the student starts from ({model.base_sha256[:12]}); delete it and run again"
        )
    if cache.manifest["edges"] != row.edges:
        raise PerflowError(f"{path}: pairs of the windows {cache.manifest['edges']}, the student has {row.edges}")
