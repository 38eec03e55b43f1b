"""A large feature network looks at a set of images once, whoever asks, and never at another's."""

import numpy as np
import pytest

from perflow.metrics.observed import Remembered


class Means:
    """A feature network: the mean of each colour, and whether red leads."""

    values = {"leads": ["no", "yes"]}

    def __init__(self):
        self.looked = 0

    def observe(self, images):
        self.looked += 1
        features = images.mean((1, 2)).astype(np.float64)
        return features, {"leads": (features.argmax(1) == 0).astype(np.int64)}


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)


def test_features_are_kept_by_network_and_pixels(tmp_path, images):
    network = Means()
    wanted = Means().observe(images)
    for _ in range(3):
        features, labels = Remembered(network, "a" * 64, tmp_path).observe(images.copy())
        assert (features == wanted[0]).all()
        assert features.dtype == np.float64
        assert (labels["leads"] == wanted[1]["leads"]).all()
    assert network.looked == 1
    Remembered(network, "b" * 64, tmp_path).observe(images)
    Remembered(network, "a" * 64, tmp_path).observe(images[:4])
    Remembered(network, "a" * 64, tmp_path).observe(images.reshape(5, 2, 8, 3))
    assert network.looked == 4
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_is_broken_or_altered_is_made_again(tmp_path, images):
    network = Remembered(Means(), "a" * 64, tmp_path)
    wanted, _ = network.observe(images)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(broken)
        assert (network.observe(images)[0] == wanted).all()
        assert path.read_bytes() == whole
