"""The extractor: features that belong to an image, standardised, and the same after saving."""

import numpy as np
import pytest
import torch

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.metrics.features import DIMENSIONS, Extractor, restore, to_input

HEADS = {"digit": ["zero", "one", "two"], "fg": ["red", "blue"]}


@pytest.fixture(scope="module")
def extractor():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Extractor(HEADS, 16).eval().requires_grad_(False)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)


def test_a_row_does_not_depend_on_how_many_there_are(extractor, images):
    features, predicted = extractor.observe(images)
    for count in (1, 3, 128, 200):
        some, labels = extractor.observe(images[:count])
        assert (some == features[:count]).all()
        assert all((labels[name] == predicted[name][:count]).all() for name in HEADS)


def test_features_and_labels_are_those_of_the_network(extractor, images):
    features, predicted = extractor.observe(images[:128])
    raw, logits = extractor(to_input(torch.from_numpy(images[:128])))
    np.testing.assert_allclose(features, raw.numpy(), rtol=1e-4, atol=1e-5)
    assert features.shape == (128, DIMENSIONS)
    assert features.dtype == np.float64
    for name in HEADS:
        assert (predicted[name] == logits[name].argmax(1).numpy()).all()
    assert to_input(torch.tensor([[[[0, 255, 0]]]], dtype=torch.uint8)).flatten().tolist() == [-1, 1, -1]


def test_standardised_features_have_mean_zero_and_deviation_one(extractor, images):
    own = restore(extractor.state_dict(), extractor.architecture())
    own.standardise(images)
    features, _ = own.observe(images)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(features.std(0, ddof=1), 1, atol=1e-9)


def test_a_saved_extractor_sees_the_same(extractor, images, tmp_path):
    extractor = restore(extractor.state_dict(), extractor.architecture())
    extractor.standardise(images[:50])
    path = tmp_path / "extractor.safetensors"
    artifacts.write_tensors(path, extractor.state_dict(), {"architecture": extractor.architecture()})
    tensors, header = artifacts.read_tensors(path)
    again = restore(tensors, header["architecture"])
    assert (again.observe(images)[0] == extractor.observe(images)[0]).all()


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 16, 16, 1)])
def test_images_of_another_size_are_refused(extractor, shape):
    with pytest.raises(PerflowError, match="16"):
        extractor.observe(np.zeros(shape, np.uint8))


def test_images_of_another_type_are_refused(extractor):
    with pytest.raises(PerflowError, match="float32"):
        extractor.observe(np.zeros((2, 16, 16, 3), np.float32))
