"""How far apart images look, as a loss: the numbers of the measure, and a gradient that is the finite difference."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import squeezenet1_0

from perflow import artifacts
from perflow.errors import PerflowError
from perflow.metrics import perceptual, squeezenet
from perflow.metrics.perceived import apart
from perflow.metrics.scripted import tensors


class Apart(nn.Module):
    """Mean absolute difference after a fixed convolution, from images of any numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (self.mix(a.float() / 127.5 - 1) - self.mix(b.float() / 127.5 - 1)).abs().mean((1, 2, 3))


class Deaf(nn.Module):
    """Counts on whole numbers."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.to(torch.uint8) != b.to(torch.uint8)).float().mean((1, 2, 3))


def program(module, folder):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.jit.script(module()).save(str(folder / "lpips.pt"))
    return perceptual.restore(tensors(folder / "lpips.pt"), {})


@pytest.fixture(scope="module")
def whole():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return squeezenet1_0(weights=None).eval().requires_grad_(False)


def both(network, images, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(0, 256, (images, 3, 24, 24)).astype(np.float32)) for _ in range(2)]


def test_a_program_says_of_floats_what_it_says_of_bytes(tmp_path):
    network = program(Apart, tmp_path)
    one, other = both(network, 5)
    measured = network.distances(*(side.permute(0, 2, 3, 1).numpy().astype(np.uint8) for side in (one, other)))
    np.testing.assert_allclose(network.apart(one, other).numpy(), measured, rtol=1e-5)


def test_squeezenet_differs_as_lpips_without_weights(whole):
    """By torchvision's own layers, position by position, in numpy."""
    network = squeezenet.restore(whole.state_dict(), {})
    one, other = both(network, 3)
    wanted, layers = np.zeros(3), []
    for side in (one, other):
        wide = nn.functional.interpolate(side, (227, 227), mode="bilinear", align_corners=False, antialias=True)
        x, found = wide[:, [2, 1, 0]] - torch.tensor([104.0, 117, 123])[:, None, None], []
        for number, layer in enumerate(whole.features):
            x = layer(x)
            if number in (1, 5, 10, 12):  # before the poolings 2, 6, 11, and the end
                found.append(x.clone().double().numpy())
        layers.append(found)
    for a, b in zip(*layers, strict=True):
        unit = [side / np.maximum(np.sqrt((side**2).sum(1, keepdims=True)), 1e-10) for side in (a, b)]
        wanted += ((unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    np.testing.assert_allclose(network.apart(one, other).numpy(), wanted, rtol=1e-4)
    assert torch.equal(network.apart(one, one), torch.zeros(3))
    torch.testing.assert_close(network.apart(one, other), network.apart(other, one))


@pytest.mark.parametrize("kind", ["lpips", "squeezenet"])
def test_the_gradient_reaches_the_first_latents_alone_and_is_a_finite_difference(kind, whole, tmp_path):
    network = program(Apart, tmp_path) if kind == "lpips" else squeezenet.restore(whole.state_dict(), {})
    path = tmp_path / "extractor.safetensors"
    header = {"kind": kind, "architecture": network.architecture()}
    artifacts.write_tensors(path, network.state_dict(), header)
    mix = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)) / 2

    def pixels(latents):
        return torch.einsum("dc,bchw->bdhw", mix.to(latents), latents)

    distances = apart("judge", path, pixels, "cpu")
    rng = torch.Generator().manual_seed(1)
    said, wanted, way = (torch.randn(2, 4, 16, 16, generator=rng) for _ in range(3))
    said, wanted = said.requires_grad_(True), wanted.requires_grad_(True)
    distances(said, wanted).sum().backward()
    assert wanted.grad is None
    step = 1e-2
    with torch.no_grad():
        slope = (distances(said + step * way, wanted) - distances(said - step * way, wanted)).sum() / (2 * step)
    assert (said.grad * way).sum().item() == pytest.approx(slope.item(), rel=0.05)
    assert said.grad.abs().max() > 0


def test_a_program_without_a_gradient_is_refused_as_a_loss_alone(tmp_path):
    network = program(Deaf, tmp_path)
    one, other = both(network, 2)
    assert network.apart(one, other).shape == (2,)
    with pytest.raises(PerflowError, match="passes no gradient on"):
        network.apart(one.requires_grad_(True), other)
