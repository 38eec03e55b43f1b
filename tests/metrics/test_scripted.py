"""TorchScript networks: the Inception kind gives clean-fid's own features, a user's program what it returns."""

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import nn

from perflow.errors import PerflowError
from perflow.metrics import scripted


class Small(nn.Module):
    """Random weights behind the interface of FID's Inception: ``layers`` from normalised pixels to 2048 numbers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 7, 13), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                                    nn.Linear(128, 2048))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Own(nn.Module):
    """A user's program: uint8 images to the mean of each colour, and the height."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.float().mean((2, 3)), torch.full((x.shape[0], 1), float(x.shape[2]))], dim=1)


def saved(module, path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.script(module()).save(str(path))
    return path


@pytest.mark.parametrize("shape", [(16, 16), (320, 300)])
def test_inception_features_are_clean_fids(tmp_path, rng, shape):
    path = saved(Small, tmp_path / "inception-2015-12-05.pt")
    images = rng.integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    features, labels = scripted.restore_inception(scripted.tensors(path), {}).observe(images)
    theirs = InceptionV3W(str(tmp_path), download=False)
    resized = np.stack([build_resizer("clean")(image) for image in images])
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(resized).permute(0, 3, 1, 2)).numpy()
    assert (features.shape, features.dtype, labels) == ((3, 2048), np.float64, {})
    np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)


def test_a_users_program_is_run_as_it_is_and_survives_being_kept(tmp_path, rng):
    network = scripted.restore(scripted.tensors(saved(Own, tmp_path / "own.pt")), {})
    images = rng.integers(0, 256, (35, 9, 7, 3), dtype=np.uint8)
    again = scripted.restore(network.state_dict(), network.architecture())
    features, _ = again.observe(images)
    np.testing.assert_allclose(features[:, :3], images.mean((1, 2)), rtol=1e-5)
    assert (features[:, 3] == 9).all()
    assert (network.observe(images[:1])[0] == features[:1]).all()


def test_what_is_no_such_program_is_refused(tmp_path):
    (tmp_path / "no.pt").write_bytes(b"not a program")
    with pytest.raises(PerflowError, match="not a TorchScript program"):
        scripted.restore(scripted.tensors(tmp_path / "no.pt"), {})
    with pytest.raises(PerflowError, match="no 'layers'"):
        scripted.restore_inception(scripted.tensors(saved(Own, tmp_path / "own.pt")), {})
    network = scripted.restore(scripted.tensors(tmp_path / "own.pt"), {})
    with pytest.raises(PerflowError, match="it reads uint8"):
        network.observe(np.zeros((2, 8, 8, 3), np.float32))
