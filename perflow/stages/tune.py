"""tune: fine-tune a base's network on other images; its text model and autoencoder stay."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from perflow import artifacts, delta
from perflow.artifacts import Spec
from perflow.config.rows import Tuned
from perflow.core.rng import generator
from perflow.latents import Latents
from perflow.lessons import lesson
from perflow.loop import Loop, Step
from perflow.models import folder, handle


def tune(spec: Spec, start: Path, latents: Path, out: Path, state: Path, device: str = "cpu") -> Iterator[Step]:
    """Write ``out``, the fine-tune's handle, and beside it ``pipeline/`` and ``curve.jsonl``; resumable by ``state``.

    ``start`` is the handle of the base it starts from, ``latents`` the manifest of the images as it
    sees them.
    """
    row = Tuned.model_validate(spec.row)
    model = handle.load(start, device)
    data = Latents.of(latents, model.name, model.base_sha256, device)
    loop = Loop(copy.deepcopy(model.unet).requires_grad_(True), row.network, state, "network", device)

    def loss(unet: nn.Module, step: int) -> Tensor:
        network, rng = model.base.network(unet), generator(spec.seed, "tune", step)
        says = lambda x, t, condition, _: network(x, t, condition)  # noqa: E731
        return lesson(model.base, data, says, row.network.batch, row.drop, row.time_power, rng)

    yield from loop.run(loss)
    weights = {name: value.cpu() for name, value in loop.ema.state_dict().items()}
    found = handle.read(start)
    into = out.with_name("pipeline")
    folder.with_network(start.parent / found["folder"], found["network"], into, weights, {"spec": spec.hash})
    artifacts.write_jsonl(out.with_name("curve.jsonl"), loop.curve)
    artifacts.write_json(out, handle.descended(found, spec.name, into, delta.identity(weights), spec.hash))
