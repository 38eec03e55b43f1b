"""The extractor's training: it learns, from its own split alone, and to the same bytes."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_0

from perflow import artifacts
from perflow.artifacts import Spec
from perflow.core.rng import generator
from perflow.datasets import store
from perflow.errors import PerflowError
from perflow.metrics.features import restore
from perflow.metrics.looking import Viewer
from perflow.metrics.observed import load_extractor, observe_real
from perflow.metrics.squeezenet import restore as squeezenet
from perflow.stages.extractor import extractor, warped
from tests.digits import fetch_digits


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "manifest.json"
    counts = {"base": 1, "extractor": 600, "reference": 200}
    fetch_digits(path, counts)
    return path


def spec(steps, seed=0):
    training = {"steps": steps, "batch": 64, "lr": 4e-3, "warmup": 10, "ema": 0.97}
    return Spec("extractors", "x", seed, {"dataset": "d", "training": training}, "hash")


def train(folder, dataset, steps, seed=0):
    out = folder / "extractor.safetensors"
    taken = list(extractor(spec(steps, seed), dataset, out, folder / "state"))
    return out, taken


def test_it_learns_to_read_unseen_handwriting(dataset, tmp_path):
    out, taken = train(tmp_path, dataset, 150)
    tensors, header = artifacts.read_tensors(out)
    assert header["spec"] == "hash"
    real, about = observe_real(dataset, "reference", Viewer(restore(tensors, header["architecture"])))
    assert about["accuracy"]["fg"] > 0.9
    assert about["accuracy"]["bg"] > 0.9
    assert about["accuracy"]["digit"] > 0.4
    reference = store.load(dataset, "reference")
    for name, accuracy in about["accuracy"].items():
        assert accuracy == np.mean(real.predicted[name] == np.array(reference[f"label_{name}"]))
    trained_on = store.images(store.load(dataset, "extractor"))
    features, _ = restore(tensors, header["architecture"]).observe(trained_on)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-9)
    curve = artifacts.read_jsonl(out.with_name("curve.jsonl"))
    assert curve[-1]["step"] == taken[-1].step == 150
    assert curve[-1]["loss"] < curve[0]["loss"] / 2


def test_the_same_spec_gives_the_same_bytes_and_another_seed_does_not(dataset, tmp_path):
    first, second, other = (
        train(tmp_path / name, dataset, 4, seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != other.read_bytes()


def test_a_stopped_training_goes_on_to_the_same_bytes(dataset, tmp_path, monkeypatch):
    whole, _ = train(tmp_path / "whole", dataset, 6)
    monkeypatch.setattr("perflow.loop.time.monotonic", iter(range(0, 10**6, 100)).__next__)
    out = tmp_path / "stopped" / "extractor.safetensors"
    steps = extractor(spec(6), dataset, out, tmp_path / "stopped" / "state")
    for _ in range(3):
        next(steps)
    steps.close()
    assert not out.exists()
    _, taken = train(tmp_path / "stopped", dataset, 6)
    assert taken[0].step > 1
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture
def weights(tmp_path):
    """Random weights of SqueezeNet 1.0, as others would hand them over."""
    path = tmp_path / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(squeezenet1_0(weights=None).state_dict(), path)
    return path


def taken_in(weights, sha256=None):
    sha256 = sha256 or artifacts.sha256_file(weights)
    row = {"kind": "squeezenet", "weights": "somewhere.safetensors", "sha256": sha256}
    out = weights.with_name("extractor.safetensors")
    list(extractor(Spec("extractors", "SqueezeNet", 0, row, "hash"), weights, out, weights.parent / "state"))
    return out


def test_foreign_weights_are_taken_in_without_their_classifier(weights):
    out = taken_in(weights)
    tensors, header = artifacts.read_tensors(out)
    original = load_file(weights)
    assert tensors.keys() == {name for name in original if name.startswith("features.")}
    assert all(torch.equal(tensors[name], original[name]) for name in tensors)
    assert header["weights"] == {"file": "weights.safetensors", "sha256": artifacts.sha256_file(weights)}
    assert (header["spec"], header["kind"]) == ("hash", "squeezenet")
    assert artifacts.read_jsonl(out.with_name("curve.jsonl")) == []
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    network, about = load_extractor("SqueezeNet", out)
    assert (network.observe(images)[0] == squeezenet(original, {}).observe(images)[0]).all()
    assert about == {"name": "SqueezeNet", "sha256": artifacts.sha256_file(out), "weights": {
        "name": "weights.safetensors", "sha256": artifacts.sha256_file(weights)}}  # fmt: skip


def test_other_weights_than_the_row_names_are_refused(weights, tmp_path):
    with pytest.raises(PerflowError, match=r"weights.safetensors: has sha256 .*; extractors.SqueezeNet asks for 0000"):
        taken_in(weights, "0" * 64)
    save_file({"features.0.weight": torch.zeros(1)}, weights)
    with pytest.raises(PerflowError, match="weights.safetensors: not SqueezeNet 1.0"):
        taken_in(weights)
    assert not (tmp_path / "extractor.safetensors").exists()


def test_warping_moves_pixels_and_leaves_colours():
    random = generator(0, "warp")
    plain = torch.rand(8, 3, 1, 1).expand(8, 3, 16, 16)
    torch.testing.assert_close(warped(plain, random), plain)
    edge = torch.zeros(8, 1, 16, 16)
    edge[..., 8:] = 1
    moved = warped(edge, random)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert all(not torch.equal(image, edge[0]) for image in moved)
    assert not torch.equal(moved[0], moved[1])
    assert ((moved - edge).abs().mean((1, 2, 3)) < 0.35).all()
