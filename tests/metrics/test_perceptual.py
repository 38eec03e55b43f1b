"""A program of two batches is asked about every two images of a prompt, and its distances are averaged by prompt."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from perflow.errors import PerflowError
from perflow.metrics import perceptual
from perflow.metrics.diversity import lpips_diversity
from perflow.metrics.scripted import tensors
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without


class Apart(nn.Module):
    """Mean absolute difference of the pixels, by the channels' weights 1, 2 and 4."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor([1.0, 2.0, 4.0])[:, None, None]
        return ((a.float() - b.float()).abs() * weights).mean((1, 2, 3))


class Below(Apart):
    """Not a distance."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a.float().mean((1, 2, 3)) - b.float().mean((1, 2, 3))


class Kept(Apart):
    """With the dimensions of the images, as LPIPS's own module returns them."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.float() - b.float()).abs().mean((1, 2, 3), keepdim=True)


class One(nn.Module):
    """A program of one batch."""

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return a.float().mean((1, 2, 3))


def network(module, folder):
    torch.jit.script(module()).save(str(folder / "lpips.pt"))
    return perceptual.restore(tensors(folder / "lpips.pt"), {})


def trial(apart, samples):
    return Trial(samples, samples, samples, samples, {}, apart=apart)


def test_every_two_images_of_a_prompt_are_compared_and_no_others(tmp_path, rng):
    images = rng.integers(0, 256, (5 * 4, 6, 7, 3), dtype=np.uint8)
    found = network(Apart, tmp_path).within(images, 4)
    weights = np.array([1, 2, 4])
    wanted = [
        [(np.abs(a.astype(float) - b) * weights).mean() for a, b in itertools.combinations(part, 2)]
        for part in images.reshape(5, 4, 6, 7, 3)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    samples = image_set(np.zeros((20, 1)), per_prompt=4)
    assert lpips_diversity(trial(found, samples)).value == pytest.approx(np.mean(wanted))


def test_copies_have_none_and_black_beside_white_has_all(tmp_path):
    images = np.zeros((4, 5, 5, 3), np.uint8)
    images[3] = 255
    samples = image_set(np.zeros((4, 1)), per_prompt=2, groups=2)
    found = network(Apart, tmp_path).within(images, 2)
    np.testing.assert_allclose(found, [[0], [255 * 7 / 3]], rtol=1e-6)
    assert lpips_diversity(trial(found, samples)).value == pytest.approx(255 * 7 / 6)


def test_a_pair_does_not_depend_on_the_others_and_the_program_survives_being_kept(tmp_path, rng):
    one, other = rng.integers(0, 256, (2, 35, 4, 4, 3), dtype=np.uint8)
    made = network(Apart, tmp_path)
    again = perceptual.restore(made.state_dict(), made.architecture())
    assert (again.distances(one, other)[:1] == made.distances(one[:1], other[:1])).all()


def test_replicates_leave_prompts_out(rng):
    samples, apart = image_set(np.zeros((66, 1)), per_prompt=3), rng.uniform(size=(22, 3))
    found = lpips_diversity(trial(apart, samples))
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        kept = np.arange(22) % 4 != group
        assert replicate == pytest.approx(lpips_diversity(trial(apart[kept], without(samples, group))).value)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Below, "below 0"),
        (Kept, r"returns \(32, 1, 1, 1\) for 32 pairs; distances are \[B\]"),
        (One, "the program fails"),
    ],
)
def test_a_program_that_tells_no_distances_is_refused_in_one_line(tmp_path, rng, module, says):
    one = rng.integers(0, 128, (3, 4, 4, 3), dtype=np.uint8)
    other = one + np.uint8(128)
    with pytest.raises(PerflowError, match=says) as raised:
        network(module, tmp_path).distances(one, other)
    assert "\n" not in str(raised.value)
