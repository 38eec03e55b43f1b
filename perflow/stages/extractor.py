"""extractor: train the feature network that every model of a study is measured with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config import rows
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.loop import Loop, Step
from perflow.metrics.features import Extractor, to_input

_TURN = 0.3  # largest off-diagonal entry of the random linear map
_STRETCH = 0.2
_SHIFT = 0.15  # of half the image's side


def extractor(spec: Spec, dataset: Path, out: Path, state: Path, device: str = "cpu") -> Iterator[Step]:
    """Train on the split "extractor" of a data set's manifest; write ``out``, ``curve.jsonl`` beside it.

    The header of ``out`` holds the architecture and the accuracy by attribute on the split "reference",
    whose handwritten digits the network has never seen.
    """
    row = rows.Extractor.model_validate(spec.row)
    manifest = artifacts.read_json(dataset)
    heads = manifest["attributes"]
    images, labels = _split(dataset, "extractor", heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(spec.seed, "extractor").initial_seed())
        model = Extractor(heads, manifest["resolution"])
    loop = Loop(model, row.training, state, phase="extractor", device=device)
    pixels, targets = torch.from_numpy(images), {name: torch.from_numpy(v) for name, v in labels.items()}

    def loss(network: torch.nn.Module, step: int) -> Tensor:
        random = generator(spec.seed, "extractor-batch", step)
        chosen = torch.randint(len(pixels), (row.training.batch,), generator=random)
        _, logits = network(warped(to_input(pixels[chosen]), random).to(device))
        losses = [functional.cross_entropy(logits[name], targets[name][chosen].to(device)) for name in heads]
        return torch.stack(losses).sum()

    yield from loop.run(loss)

    trained = loop.ema.cpu()
    trained.standardise(images)
    images, labels = _split(dataset, "reference", heads)
    _, predicted = trained.observe(images)
    header = {
        "spec": spec.hash,
        "sha256": artifacts.tensor_hash(trained.state_dict()),
        "dataset": manifest["spec"],
        "architecture": trained.architecture(),
        "accuracy": {name: float(np.mean(predicted[name] == labels[name])) for name in heads},
    }
    artifacts.write_jsonl(out.with_name("curve.jsonl"), loop.curve)
    artifacts.write_tensors(out, trained.state_dict(), header)


def _split(dataset: Path, split: str, heads: dict) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images [N, H, W, 3] and int64 labels [N] by attribute."""
    table = store.load(dataset, split)
    return store.images(table), {name: np.asarray(table[f"label_{name}"], dtype=np.int64) for name in heads}


def warped(images: Tensor, random: torch.Generator) -> Tensor:
    """Images [B, 3, H, W], each under a random linear map and shift; the border is continued outwards."""

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(len(images), *shape, generator=random) - 1

    scale = torch.tensor([[_STRETCH, _TURN], [_TURN, _STRETCH]])
    linear = torch.eye(2) + scale * uniform(2, 2)
    theta = torch.cat([linear, _SHIFT * uniform(2, 1)], dim=2)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
