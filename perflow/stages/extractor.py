"""extractor: the feature network that every model of a study is measured with, trained or taken in."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config import rows
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.loop import Loop, Step
from perflow.metrics import CLASSIFIER, COORDINATES, EXTRACTORS, FOLDERS, READERS
from perflow.metrics.features import Extractor, to_input
from perflow.metrics.looking import Viewer
from perflow.metrics.observed import observe_real
from perflow.metrics.standardised import Standardised

_RULER = "base"
"""The split whose images standardise: others than those that are measured."""
_TURN = 0.3  # largest off-diagonal entry of the random linear map
_STRETCH = 0.2
_SHIFT = 0.15  # of half the image's side


def extractor(
    spec: Spec, source: Path, out: Path, state: Path, device: str = "cpu", dataset: Path | None = None
) -> Iterator[Step]:
    """Write ``out``, and ``curve.jsonl`` beside it.

    A classifier is trained on the split "extractor" of the manifest ``source``; the header of ``out`` holds its
    architecture. How well it reads is measured by ``evaluate``, on images of another split. Coordinates of points
    need nothing. Of any other kind ``source`` is the file of the weights (of a folder, the one that stands for it), and
    the curve is empty; ``dataset`` is the manifest of the images by which the row standardises, if it does.
    PerflowError if that file is not the one the row names, or holds another network.
    """
    row = rows.Extractor.model_validate(spec.row)
    if row.kind == COORDINATES:
        network = pkgutil.resolve_name(EXTRACTORS[row.kind])({}, {})
        artifacts.write_jsonl(out.with_name("curve.jsonl"), [])
        artifacts.write_tensors(out, {}, _header(spec, row, network))
        yield Step("extractor", 1, 1)
    elif row.kind == CLASSIFIER:
        yield from _train(spec, row, source, out, state, device)
    else:
        _take_in(spec, row, source, out, dataset, device)
        yield Step("extractor", 1, 1)


def _take_in(spec: Spec, row: rows.Extractor, weights: Path, out: Path, dataset: Path | None, device: str) -> None:
    if (row.standardise is None) != (dataset is None):
        raise PerflowError(f"--dataset: goes with a row that standardises by one; got {dataset} and {row.standardise}")
    _, hashed = FOLDERS.get(row.kind, (None, None))
    found = pkgutil.resolve_name(hashed)(weights) if hashed else artifacts.sha256_file(weights)
    if found != row.sha256:
        raise PerflowError(f"{weights}: has sha256 {found}; extractors.{spec.name} asks for {row.sha256}")
    try:
        reader = READERS.get(row.kind)
        tensors = pkgutil.resolve_name(reader)(weights) if reader else artifacts.read_tensors(weights)[0]
        network = pkgutil.resolve_name(EXTRACTORS[row.kind])(tensors, {})
    except PerflowError as error:
        raise PerflowError(f"{weights}: {error}") from None
    said = {"weights": {"file": (weights.parent if hashed else weights).name, "sha256": found}}
    if dataset is not None:
        ruler = observe_real(dataset, _RULER, Viewer(network.to(device), device))[0].features
        network = Standardised.by(network.to("cpu"), ruler)
        constant = int((network.scale == 0).sum())
        said["standardised"] = {"dataset": row.standardise, "split": _RULER, "spec": store.manifest(dataset)["spec"],
                                "count": len(ruler), "constant": constant}  # fmt: skip
    header = _header(spec, row, network) | said
    artifacts.write_jsonl(out.with_name("curve.jsonl"), [])
    artifacts.write_tensors(out, network.state_dict(), header)


def _header(spec: Spec, row: rows.Extractor, network: Any) -> dict[str, Any]:
    return {
        "spec": spec.hash,
        "sha256": artifacts.tensor_hash(network.state_dict()),
        "kind": row.kind,
        "architecture": network.architecture(),
    }


def _train(spec: Spec, row: rows.Extractor, dataset: Path, out: Path, state: Path, device: str) -> Iterator[Step]:
    manifest = store.manifest(dataset)
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
    header = _header(spec, row, trained) | {"dataset": manifest["spec"]}
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
