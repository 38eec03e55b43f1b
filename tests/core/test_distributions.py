"""Points of an index; the exact flow between mixtures keeps marginals, raises no convex cost, is straight reflowed."""

import math

import pytest
import torch

from perflow import core
from perflow.core.distributions import DISTRIBUTIONS, Mixture, draw, exact_velocity
from perflow.core.interpolation import Interpolation
from perflow.core.velocity import rk45

STRAIGHT = Interpolation("straight")


def test_the_names_known_without_torch_are_the_distributions():
    assert tuple(DISTRIBUTIONS) == core.DISTRIBUTIONS


@pytest.mark.parametrize("name", core.DISTRIBUTIONS)
def test_a_point_belongs_to_its_index(name):
    points = draw(name, 3, "test", range(50))
    assert torch.equal(draw(name, 3, "test", [7, 41]), points[[7, 41]])
    assert not torch.equal(draw(name, 4, "test", range(50)), points)
    assert bool((points.abs() < 8).all())


@pytest.mark.parametrize("name", [name for name, found in DISTRIBUTIONS.items() if isinstance(found, Mixture)])
def test_a_mixture_has_its_moments(name):
    mixture, points = DISTRIBUTIONS[name], draw(name, 0, "moments", range(4000)).double()
    means = torch.tensor(mixture.means).double()
    variance = mixture.deviation**2 + means.var(0, correction=0)
    torch.testing.assert_close(points.mean(0), means.mean(0), rtol=0, atol=5 * float(variance.max() / 4000) ** 0.5)
    torch.testing.assert_close(points.var(0), variance, rtol=0.1, atol=0)


@pytest.mark.parametrize("name", core.INTERPOLATIONS)
def test_the_exact_velocity_is_the_conditional_mean(name):
    """E[(v(x_t) - dx_t/dt) h(x_t)] = 0 for any h: arXiv 2209.03003, eq. 1."""
    data, start, path = DISTRIBUTIONS["ring"], DISTRIBUTIONS["triangle"], Interpolation(name)
    x0, x1 = (draw(which, 0, which, range(6000)).double() for which in ("ring", "triangle"))
    for t in (0.2, 0.6):
        (fall, rise), x = path.rates(t), path.alpha(t) * x0 + path.sigma(t) * x1
        miss = exact_velocity(data, start, path)(x, torch.full((6000,), t)) - (fall * x0 + rise * x1)
        for h in (torch.ones(6000), x[:, 0], x[:, 1] ** 2, torch.sin(x.sum(1)), (x[:, 0] > 1).double()):
            product = miss * h[:, None]
            assert bool((product.mean(0).abs() < 4.5 * product.std(0) / 6000**0.5).all())


def flowed(count=600):
    """Starts and ends of the exact flow from one triangle to the other, and as many real points."""
    start, real = draw("triangle", 0, "start", range(count)).double(), draw("triangle_flipped", 0, "real", range(count))
    field = exact_velocity(DISTRIBUTIONS["triangle_flipped"], DISTRIBUTIONS["triangle"], STRAIGHT)
    return start, rk45(field, start, 1.0, 0.0, 1e-4).end, real.double()


def test_the_exact_flow_keeps_the_marginals_and_raises_no_convex_cost():
    start, end, real = flowed()
    for seen in (lambda x: x, lambda x: x**2, lambda x: (x[:, 1:] > 2).double()):  # each mean within five errors of it
        error = ((seen(end).var(0) + seen(real).var(0)) / len(end)) ** 0.5
        assert bool(((seen(end).mean(0) - seen(real).mean(0)).abs() < 5 * error).all())
    near = torch.cdist(end, torch.tensor(DISTRIBUTIONS["triangle_flipped"].means).double()).min(1).values
    assert float((near < 4 * 0.4).double().mean()) > 0.99
    random, flow = real - start, end - start
    powers = [lambda d, power=power: d.norm(dim=1) ** power for power in (1, 2, 4)]
    for cost in (*powers, lambda d: d.abs().sum(1), lambda d: d[:, 0].clamp(min=0)):
        assert float(cost(flow).mean()) < float(cost(random).mean())


def test_reflow_of_a_gaussian_is_straight_and_costs_no_more():
    """N(0, 1) to N(0, s²): the random coupling costs 2 (1 + s²), its flow is x -> s x at 2 (1 - s)², and the flow of
    that coupling, x_t = (t + (1 - t) s) x_1, is straight: it ends where the first did."""
    s, x = 0.4, draw("gaussian", 0, "reflow", range(2000)).double()
    first = rk45(exact_velocity(Mixture(((0.0, 0.0),), s), DISTRIBUTIONS["gaussian"], STRAIGHT), x, 1.0, 0.0, 1e-9).end
    torch.testing.assert_close(first, s * x, rtol=1e-6, atol=1e-6)

    def again(x, t):
        return x * ((1 - s) / (t + (1 - t) * s))[:, None]

    second = rk45(again, x, 1.0, 0.0, 1e-9)
    torch.testing.assert_close(second.end, first, rtol=1e-6, atol=1e-6)
    one_step = x - again(x, torch.ones(len(x), dtype=torch.float64))
    torch.testing.assert_close(one_step, first, rtol=1e-6, atol=1e-6)
    cost = float((second.end - x).square().sum(1).mean())
    assert cost == pytest.approx(2 * (1 - s) ** 2, rel=0.1)
    assert cost < 2 * (1 + s**2)
    assert math.isclose(cost, float((first - x).square().sum(1).mean()), rel_tol=1e-6)
