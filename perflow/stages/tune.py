"""tune: fine-tune a base's network on other images; its text model and autoencoder stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Tuned
from perflow.core.rng import generator
from perflow.lessons import Lessons
from perflow.loop import Loop, Step
from perflow.models import folder, handle


def tune(spec: Spec, start: Path, dataset: Path, out: Path, state: Path, device: str = "cpu") -> Iterator[Step]:
    """Write ``out``, the fine-tune's handle, and beside it ``pipeline/`` and ``curve.jsonl``; resumable by ``state``.

    ``start`` is the handle of the base it starts from, ``dataset`` the manifest of the images.
    """
    row = Tuned.model_validate(spec.row)
    model = handle.load(start, device)
    lessons = Lessons.load(model.base, dataset)
    loop = Loop(copy.deepcopy(model.unet).requires_grad_(True), row.network, state, "network", device)

    def loss(unet: nn.Module, step: int) -> Tensor:
        network, rng = model.base.network(unet), generator(spec.seed, "tune", step)
        return lessons.loss(lambda x, t, c, _: network(x, t, c), row.network.batch, row.drop, row.time_power, rng)

    yield from loop.run(loss)
    weights = {name: value.cpu() for name, value in loop.ema.state_dict().items()}
    found = handle.read(start)
    into = out.with_name("pipeline")
    folder.with_network(start.parent / found["folder"], found["network"], into, weights, {"spec": spec.hash})
    artifacts.write_jsonl(out.with_name("curve.jsonl"), loop.curve)
    sha256 = artifacts.tensor_hash(weights)
    artifacts.write_json(
        out, handle.base_handle(spec.name, row.family, into, row.prediction, sha256, spec.hash, found["network"])
    )
