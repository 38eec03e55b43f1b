"""rectify: train a flow on the plane from points alone, with no teacher (1-rectified flow)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config.rows import Flow
from perflow.core import distributions
from perflow.core.interpolation import FIRST
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.loop import Loop, Step
from perflow.models import plane
from perflow.models.handle import base_handle

_MEASURED = 4096
"""Points of the start from which its spread is taken."""


def rectify(spec: Spec, dataset: Path, out: Path, state: Path, device: str = "cpu") -> Iterator[Step]:
    """Train, and write ``out``, the base's handle; beside it ``flow/`` and ``curve.jsonl``. Resumable by ``state``.

    A step draws as many new points of the start as real points: the independent coupling. PerflowError if the data
    set holds images.
    """
    row = Flow.model_validate(spec.row)
    data = torch.from_numpy(store.items(store.load(dataset, "base")))
    if data.ndim != 2:
        raise PerflowError(f"{dataset}: holds images; a flow of the family {row.family} is of points")
    begins = row.start_scale * distributions.draw(row.start, spec.seed, "spread", range(_MEASURED))
    config = {
        "interpolation": row.interpolation, "start": row.start, "start_scale": row.start_scale, "width": row.width,
        "depth": row.depth, "spread": [round(float(part.square().mean().sqrt()), 4) for part in (data, begins)],
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(spec.seed, "flow").initial_seed())
        network = plane.new_network(config)
    loop = Loop(network, row.network, state, "network", device)
    yield from loop.run(lambda model, step: _loss(model, row, data, spec.seed, step, device))

    folder, trained = out.parent / "flow", loop.ema.cpu()
    plane.save(folder, config, trained)
    artifacts.write_jsonl(out.with_name("curve.jsonl"), loop.curve)
    sha256 = artifacts.tensor_hash(trained.state_dict())
    artifacts.write_json(out, base_handle(spec.name, row.family, folder, row.prediction, sha256, spec.hash, plane.PART))


def _loss(model: nn.Module, row: Flow, data: Tensor, seed: int, step: int, device: str) -> Tensor:
    """E|v(x_t, t) - dx_t/dt|² (arXiv 2209.03003, eq. 1), at each t over the mean square of dx_t/dt.

    The weight changes no minimum; on the straight path it is constant.
    """
    rng, batch = generator(seed, "flow-step", step), row.network.batch
    real = data[torch.randint(len(data), (batch,), generator=rng)].to(device)
    u, z = torch.rand(batch, 2, generator=rng), torch.randn(batch, 2, generator=rng)
    start = (row.start_scale * distributions.DISTRIBUTIONS[row.start].points(u, z)).to(device)
    t = FIRST + (1 - FIRST) * torch.rand(batch, generator=rng, dtype=torch.float64)
    path = model.path
    alpha, sigma, fall, rise = (part[:, None].to(real) for part in (path.alpha(t), path.sigma(t), *path.rates(t)))
    said = model(alpha * real + sigma * start, t.float().to(device))
    wrong = (said - (fall * real + rise * start)) / model.speed(t).to(real)
    return wrong.square().mean()
