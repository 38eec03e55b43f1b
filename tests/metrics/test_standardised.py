"""Features standardised by images of a data set: no scale of a network's outputs is left in a number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_0

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.config import rows
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics import distance, given, scripted
from perflow.metrics.observed import load_extractor
from perflow.metrics.squeezenet import restore as squeezenet
from perflow.metrics.standardised import Standardised
from perflow.metrics.trial import Images, Trial
from perflow.stages.extractor import extractor
from tests.digits import fetch_digits

D = 6


class Scaled(nn.Module):
    """uint8 images [B, 3, H, W] to six numbers, each times and plus one of its own; the last one never differs."""

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float() / 255
        plain = torch.cat([x.mean((2, 3)), x.std((2, 3))[:, :2], torch.ones(x.shape[0], 1)], dim=1)
        return plain * self.scale + self.shift

    @torch.jit.export
    def logits(self, features: torch.Tensor) -> torch.Tensor:
        return (features - self.shift)[:, :3]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "manifest.json"
    fetch_digits(path, {"base": 40, "extractor": 1, "reference": 30})
    return path


def taken_in(folder, data, scale, shift):
    """The program, taken in by the stage as a row of kind torchscript that is standardised by a data set."""
    folder.mkdir()
    weights = folder / "own.pt"
    torch.jit.script(Scaled(scale, shift)).save(str(weights))
    row = {"kind": "torchscript", "weights": "own.pt", "sha256": artifacts.sha256_file(weights), "standardise": "d"}
    list(extractor(Spec("extractors", "own", 0, row, "hash"), weights, folder / "x.safetensors", folder, dataset=data))
    return load_extractor("own", folder / "x.safetensors")


def numbers(network, images, groups=4):
    """Both distances of the first half of the images to the second, with their replicates."""
    one, other = (network.observe(half)[0] for half in np.array_split(images, 2))
    samples, real = Images(one, {}, groups=np.arange(len(one)) % groups), Images(other, {})
    trial = Trial(samples, samples, samples, real, {})
    return [(found.value, *found.replicates) for found in (distance.fd_real(trial), distance.kid_real(trial))]


def test_scaling_what_a_network_says_changes_no_distance(data, tmp_path):
    """By powers of two, which float32 holds, to rounding; of the features as they are both distances change much."""
    images = store.images(store.load(data, "reference"))
    plain = taken_in(tmp_path / "plain", data, torch.ones(D), torch.zeros(D))[0]
    scale = torch.tensor([1024.0, 1 / 64, 8.0, 1.0, 32.0, 4.0])
    scaled = taken_in(tmp_path / "scaled", data, scale, torch.zeros(D))[0]
    np.testing.assert_allclose(numbers(scaled, images), numbers(plain, images), rtol=1e-9, atol=1e-12)
    raw = [numbers(network.network, images)[kind][0] for network in (plain, scaled) for kind in (0, 1)]
    assert raw[2] > 1e3 * raw[0]
    assert abs(raw[3]) > 1e3 * abs(raw[1])


def test_values_are_those_of_features_standardised_by_hand(data, tmp_path):
    network, about = taken_in(tmp_path / "own", data, torch.arange(1.0, 7.0), torch.zeros(D))
    ruler, images = (store.images(store.load(data, split)) for split in ("base", "reference"))
    program = scripted.restore(scripted.tensors(tmp_path / "own" / "own.pt"), {})
    reference, raw = (program.observe(each)[0] for each in (ruler, images))
    wanted = np.stack([(raw[:, d] - np.mean(reference[:, d])) / np.std(reference[:, d], ddof=1) for d in range(5)], 1)
    found, _ = network.observe(images)
    np.testing.assert_allclose(found[:, :5], wanted, rtol=1e-12, atol=1e-12)
    assert (found[:, 5] == 0).all()
    one, other = np.array_split(np.concatenate([wanted, np.zeros((30, 1))], 1), 2)
    kernel = lambda x, y: (x @ y.T / D + 1) ** 3  # noqa: E731
    within = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (one, other)]
    assert numbers(network, images)[1][0] == pytest.approx(sum(within) - 2 * kernel(one, other).mean(), rel=1e-9)
    said = {"dataset": "d", "split": "base", "spec": store.manifest(data)["spec"], "count": 40, "constant": 1}
    assert about["standardised"] == said
    told = network.classify(found)["class"]
    np.testing.assert_allclose(told, program.classify(raw)["class"], rtol=1e-5)


def test_squeezenet_keeps_its_own_features_below(data, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {
            name: value for name, value in squeezenet1_0(weights=None).features.state_dict(prefix="features.").items()
        }
    network = squeezenet(weights, {})
    images = store.images(store.load(data, "base"))[:8]
    raw = network.observe(images)[0]
    one = Standardised.by(network, raw)
    found = one.observe(images)[0]
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-9)
    differ = raw.min(0) < raw.max(0)
    np.testing.assert_allclose(found.std(0, ddof=1), differ, atol=1e-9)
    with pytest.raises(PerflowError, match="standardised by two images or more; got 1"):
        Standardised.by(network, raw[:1])


def test_a_file_of_raw_features_is_standardised_and_one_of_standardised_features_is_not(data, tmp_path):
    network, about = taken_in(tmp_path / "own", data, torch.arange(1.0, 7.0), torch.zeros(D))
    images = store.images(store.load(data, "reference"))
    seen, raw = network.observe(images)[0], network.network.observe(images)[0]
    for features, maker, named in (
        (raw, about["weights"]["sha256"], None),
        (raw, None, "own"),
        (seen, about["sha256"], None),
    ):
        np.savez(tmp_path / "f.npz", features=features, **({"extractor": maker} if maker else {}))
        found = given.read(tmp_path / "f.npz").by(network, about, named)
        assert (found.images(D).features == seen).all()
    np.savez(tmp_path / "f.npz", mu=raw.mean(0), sigma=np.cov(raw, rowvar=False))
    mean, covariance = given.read(tmp_path / "f.npz").by(network, about, "own").moments
    np.testing.assert_allclose(mean, seen.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(seen, rowvar=False), rtol=1e-9, atol=1e-12)
    np.savez(tmp_path / "f.npz", features=raw[:, :4])
    with pytest.raises(PerflowError, match="features have 4 dimensions; the extractor's have 6"):
        given.read(tmp_path / "f.npz").by(network, about, "own")


def test_the_row_and_the_images_go_together(data, tmp_path):
    weights = tmp_path / "own.pt"
    torch.jit.script(Scaled(torch.ones(D), torch.zeros(D))).save(str(weights))
    row = {"kind": "torchscript", "weights": "own.pt", "sha256": artifacts.sha256_file(weights)}
    for own, dataset in ((row, data), (row | {"standardise": "d"}, None)):
        with pytest.raises(PerflowError, match="--dataset: goes with a row that standardises by one"):
            list(extractor(Spec("extractors", "own", 0, own, "h"), weights, tmp_path / "x", tmp_path, dataset=dataset))
    assert "standardise" not in rows.Extractor.model_validate(row).model_dump()
