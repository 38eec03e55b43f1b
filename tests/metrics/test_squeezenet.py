"""SqueezeNet: torchvision's network on images prepared as stated, from tensors that are really its own."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_0, squeezenet1_1

from perflow.errors import PerflowError
from perflow.metrics.squeezenet import DIMENSIONS, restore


@pytest.fixture(scope="module")
def whole():
    """All of torchvision's network, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return squeezenet1_0(weights=None).eval().requires_grad_(False)


@pytest.mark.parametrize("shape", [(16, 16), (300, 250)])
def test_features_are_those_of_torchvision_after_pillows_resizing(whole, shape, rng):
    images = rng.integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    features, labels = restore(whole.state_dict(), {}).observe(images)
    assert (features.shape, features.dtype, labels) == ((3, DIMENSIONS), np.float64, {})
    for image, row in zip(images, features, strict=True):
        planes = [
            Image.fromarray(image[..., c].astype(np.float32)).resize((227, 227), Image.BILINEAR) for c in (2, 1, 0)
        ]
        prepared = np.stack([np.asarray(plane) - mean for plane, mean in zip(planes, (104, 117, 123), strict=True)])
        out = whole.features(torch.from_numpy(prepared).float()[None])
        assert out.shape == (1, 512, 13, 13)
        np.testing.assert_allclose(row, out.mean((2, 3))[0].numpy(), rtol=2e-3, atol=2e-3)


def test_a_row_does_not_depend_on_how_many_there_are(whole, rng):
    images = rng.integers(0, 256, (35, 16, 16, 3), dtype=np.uint8)
    network = restore(whole.state_dict(), {})
    features, _ = network.observe(images)
    for count in (1, 33):
        assert (network.observe(images[:count])[0] == features[:count]).all()


def test_half_precision_and_no_classifier_will_do(whole):
    tensors = {name: value.half() for name, value in whole.features.state_dict(prefix="features.").items()}
    network = restore(tensors, {})
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert network.state_dict().keys() == tensors.keys()


def altered(tensors, **changes):
    return {name: value for name, value in (tensors | changes).items() if value is not None}


def test_another_network_is_refused_by_the_tensor_that_differs(whole):
    tensors = whole.state_dict()
    with pytest.raises(PerflowError, match=r"not SqueezeNet 1.0 .*: no tensor 'features.0.bias'"):
        restore(altered(tensors, **{"features.0.bias": None}), {})
    with pytest.raises(PerflowError, match="an unknown tensor 'conv1.weight'"):
        restore(altered(tensors, **{"conv1.weight": torch.zeros(1)}), {})
    with pytest.raises(PerflowError, match=r"'features.0.weight' is \(96, 3, 3, 3\), not \(96, 3, 7, 7\)"):
        restore(altered(tensors, **{"features.0.weight": torch.zeros(96, 3, 3, 3)}), {})
    with pytest.raises(PerflowError, match="not SqueezeNet 1.0"):
        restore(squeezenet1_1(weights=None).state_dict(), {})


def test_images_of_another_form_are_refused(whole):
    for images in (np.zeros((2, 16, 16, 3), np.float32), np.zeros((2, 16, 16, 1), np.uint8)):
        with pytest.raises(PerflowError, match="it reads uint8"):
            restore(whole.state_dict(), {}).observe(images)
