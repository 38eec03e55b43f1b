"""Paths between two distributions: where they begin and end, and how fast they go."""

import math

import pytest
import torch

from perflow import core
from perflow.core.interpolation import FIRST, INTERPOLATIONS, Interpolation
from perflow.core.velocity import diffusion


def test_the_names_known_without_torch_are_the_paths():
    assert tuple(INTERPOLATIONS) == core.INTERPOLATIONS


@pytest.mark.parametrize("name", core.INTERPOLATIONS)
def test_it_goes_from_data_to_its_start(name):
    path = Interpolation(name)
    assert float(path.alpha(0)) == pytest.approx(1)
    assert float(path.sigma(0)) <= 1e-3
    assert float(path.sigma(1)) == pytest.approx(1, abs=1e-4)
    assert float(path.alpha(1)) < 1e-2 or name == "ve"


@pytest.mark.parametrize("name", core.INTERPOLATIONS)
def test_rates_are_the_derivatives(name):
    path, t, h = Interpolation(name), torch.linspace(0.01, 0.99, 50, dtype=torch.float64), 1e-6
    for rate, scale in zip(path.rates(t), (path.alpha, path.sigma), strict=True):
        torch.testing.assert_close(rate, (scale(t + h) - scale(t - h)) / (2 * h), rtol=1e-5, atol=1e-7)
    assert all(bool(rate.isfinite().all()) for rate in path.rates(torch.tensor([0.0, FIRST, 1.0])))


@pytest.mark.parametrize("name", ["vp", "vp_constant"])
def test_variance_is_preserved(name):
    path, t = Interpolation(name), torch.linspace(0, 1, 30, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t) ** 2 + path.sigma(t) ** 2, torch.ones_like(t))
    angle = torch.atan2(path.sigma(t), path.alpha(t))
    turn = (angle[2:] - angle[1:-1]) / (t[1] - t[0])
    torch.testing.assert_close(path.turn((t[1:-1] + t[2:]) / 2), turn, rtol=0.05, atol=0.05)


def test_diffusions_are_the_paths_that_never_lose_the_data():
    assert set(core.DIFFUSIONS) == {name for name in INTERPOLATIONS if float(Interpolation(name).alpha(1)) > 0}


@pytest.mark.parametrize("t", [0.1, 0.5, 1.0])
def test_the_diffusion_is_that_of_the_published_sdes(t):
    """Score SDEs, arXiv 2011.13456, eq. 25-30: VP has g² = beta, sub-VP beta (1 - exp(-2 ∫ beta)), VE (sigma²)'."""
    beta, whole = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    assert float(diffusion(t, Interpolation("vp"))) == pytest.approx(beta)
    assert float(diffusion(t, Interpolation("subvp"))) == pytest.approx(beta * (1 - math.exp(-2 * whole)))
    assert float(diffusion(t, Interpolation("ve"))) == pytest.approx(1e-3 ** (2 - 2 * t) * 2 * math.log(1e3))
