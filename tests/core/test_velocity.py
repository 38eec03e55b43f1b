"""RK45 against its order, scipy's coefficients and flows known in closed form; the reverse SDE against its law."""

import math

import pytest
import torch
from scipy.integrate import RK45

from perflow import core
from perflow.core import velocity
from perflow.core.distributions import Mixture, exact_velocity
from perflow.core.interpolation import Interpolation
from perflow.core.velocity import noise_of, reverse_sde, rk45, rk45_step
from perflow.errors import PerflowError

DATA, START = Mixture(((1.5, -0.5),), 0.4), Mixture(((-1.0, 2.0),), 1.3)


def swing(x, t):
    """dx/dt = x cos t, so x(t) = x(0) exp(sin t)."""
    return x * t.cos()[:, None].to(x)


def test_the_coefficients_are_those_of_dormand_and_prince():
    assert velocity._NODES[:6] == pytest.approx(RK45.C)
    for own, theirs in zip(velocity._WEIGHTS[:6], RK45.A, strict=True):
        assert own == pytest.approx(theirs[: len(own)], abs=1e-14)
    assert velocity._WEIGHTS[6] == pytest.approx(RK45.B, abs=1e-14)
    assert [abs(weight) for weight in velocity._ERROR] == pytest.approx([abs(weight) for weight in RK45.E], abs=1e-14)


def test_a_fixed_step_is_of_fifth_order_and_its_estimate_sees_the_fourth():
    one, zero, errors = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), []
    for steps in (8, 16, 32):
        x, t, h = one, zero, torch.full((1,), 2 / steps, dtype=torch.float64)
        estimate = rk45_step(swing, x, t, h, swing(x, t))[2]
        for _ in range(steps):
            x, t = rk45_step(swing, x, t, h, swing(x, t))[0], t + h
        errors.append((abs(float(x) - math.exp(math.sin(2))), abs(float(estimate))))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert 4.5 < math.log2(coarse[0] / fine[0]) < 5.8
        assert 4.5 < math.log2(coarse[1] / fine[1]) < 5.6  # of one step: one order above the fourth


def test_it_keeps_its_tolerance_either_way_and_says_what_it_cost():
    x = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    calls = 0

    def counted(x, t):
        nonlocal calls
        calls += 1
        return swing(x, t)

    there = rk45(counted, x, 0.0, 3.0, 1e-8)
    torch.testing.assert_close(there.end, x * math.exp(math.sin(3)), rtol=1e-6, atol=1e-7)
    assert calls == int(there.evaluations.max())
    torch.testing.assert_close(rk45(swing, there.end, 3.0, 0.0, 1e-8).end, x, rtol=1e-6, atol=1e-7)


def test_an_item_does_not_depend_on_its_neighbours():
    x = torch.tensor([[0.1], [40.0], [-3.0]])
    together = rk45(swing, x, 0.0, 6.0)
    assert len(set(together.evaluations.tolist())) > 1
    for i in range(3):
        alone = rk45(swing, x[i : i + 1], 0.0, 6.0)
        assert torch.equal(alone.end[0], together.end[i])
        assert alone.evaluations[0] == together.evaluations[i]


def test_a_straight_flow_costs_two_steps():
    zero = torch.zeros(2, 2, dtype=torch.float64)
    found = rk45(lambda x, t: torch.full_like(x, 2.0), zero, 1.0, 0.0)
    torch.testing.assert_close(found.end, zero - 2)
    assert found.evaluations.tolist() == [13, 13]  # 1 + 6 a step


def test_a_flow_that_cannot_be_solved_is_an_error():
    with pytest.raises(PerflowError, match="rk45: the flow is not finite"):
        rk45(lambda x, t: x + math.nan, torch.zeros(1, 2), 1.0, 0.0)
    with pytest.raises(PerflowError, match="rk45: 1 items are not at t=0"):
        rk45(lambda x, t: x / t[:, None] ** 3, torch.ones(1, 2, dtype=torch.float64), 1.0, 0.0)


@pytest.mark.parametrize("name", core.INTERPOLATIONS)
def test_between_two_gaussians_the_flow_moves_and_scales(name):
    """x_t is Gaussian at every t, and a point keeps its place in it: (x - mean) / deviation stays."""
    path = Interpolation(name)
    x = torch.tensor([[0.0, 0.0], [-2.5, 3.0], [1.0, 2.0]], dtype=torch.float64)

    def law(t):
        mean = float(path.alpha(t)) * torch.tensor(DATA.means[0]) + float(path.sigma(t)) * torch.tensor(START.means[0])
        return mean, math.hypot(float(path.alpha(t)) * DATA.deviation, float(path.sigma(t)) * START.deviation)

    (begin, wide), (end, narrow) = law(1.0), law(0.002)
    found = rk45(exact_velocity(DATA, START, path), x, 1.0, 0.002, 1e-8).end
    torch.testing.assert_close(found, end + (x - begin) / wide * narrow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", core.INTERPOLATIONS)
def test_a_velocity_says_its_noise(name):
    path, t = Interpolation(name), 0.3
    ends = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = path.alpha(t) * ends[0] + path.sigma(t) * ends[1]
    said = path.rates(t)[0] * ends[0] + path.rates(t)[1] * ends[1]
    torch.testing.assert_close(noise_of(said, x, t, path), ends[1])


@pytest.mark.parametrize("name", core.DIFFUSIONS)
def test_the_reverse_sde_ends_at_the_data(name):
    """From a Gaussian of any scale: the mean and the deviation of 4,000 ends are the data's."""
    path, scale, rng = Interpolation(name), 8.0 if name == "ve" else 1.0, torch.Generator().manual_seed(1)
    field = exact_velocity(DATA, Mixture(((0.0, 0.0),), scale), path)
    times = torch.linspace(1, 0, 301).tolist()
    x = scale * torch.randn(4000, 2, generator=rng)
    found = reverse_sde(field, x, times, path, scale, lambda i: torch.randn(4000, 2, generator=rng))
    assert len(found) == 301
    assert found[-1].mean(0).tolist() == pytest.approx(DATA.means[0], abs=0.04)
    assert found[-1].std(0).tolist() == pytest.approx([DATA.deviation] * 2, rel=0.05)
