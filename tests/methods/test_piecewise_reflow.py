"""Piecewise reflow: what its options change, and that they change nothing where they are left out."""

import pytest
import torch

from perflow.core.learner import Learner
from perflow.core.penalties import HUBER_C, PENALTIES, mean_square
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.methods.piecewise_reflow import PiecewiseReflow
from perflow.pairs import PairBatch

FLOW = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(4))


def learner(flow=FLOW, off=0.0):
    """Says ``tanh x + off``, whatever the time."""
    return Learner(lambda x, timestep, condition: torch.tanh(x) + off, flow)


def batch(count=64):
    rng = torch.Generator().manual_seed(3)
    start, end = torch.randn(2, count, 2, 3, generator=rng)
    return PairBatch(start, end, torch.arange(count) % 4, torch.zeros(count, 1))


def loss(method, student=None):
    student = student or learner()
    return method.loss(student, student, batch(), generator(0, "train", 0, 5))


def test_without_options_it_is_the_papers_loss_to_the_bit():
    """PeRFlow eq. 4: uniform positions, mean squared error, no weights."""
    pairs = batch()
    u = torch.rand(len(pairs.k), generator=generator(0, "train", 0, 5))
    x = FLOW.interpolate(pairs.start, pairs.end, pairs.k, u)
    error = (torch.tanh(x) - FLOW.target(pairs.start, pairs.end, pairs.k)).square().flatten(1).mean(1)
    assert torch.equal(loss(PiecewiseReflow()), error.mean())


def test_pseudo_huber_is_the_published_one_divided_by_the_root_of_the_size():
    """sqrt(‖e‖² + c²) - c with c = 0.00054 sqrt(d), whatever d."""
    for shape in ((5, 4), (5, 3, 8, 8)):
        said, wanted = torch.randn(2, *shape, dtype=torch.float64)
        d = said[0].numel()
        c = 0.00054 * d**0.5
        published = ((said - wanted).flatten(1).norm(dim=1) ** 2 + c**2).sqrt() - c
        torch.testing.assert_close(PENALTIES["huber"](mean_square(said, wanted)), published / d**0.5)


def test_pseudo_huber_is_square_near_zero_and_linear_far_off():
    small, large = torch.tensor([1e-10, 4e-10], dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(PENALTIES["huber"](small), small / (2 * HUBER_C), rtol=1e-3, atol=0)
    torch.testing.assert_close(PENALTIES["huber"](large), large.sqrt(), rtol=1e-3, atol=0)
    assert PENALTIES["huber"](torch.zeros(1)) == 0


@pytest.mark.parametrize("power", [0.5, 1.0, 3.0])
def test_positions_have_the_density_that_power_names(power):
    u = PiecewiseReflow(power=power)._draw(20000, torch.Generator().manual_seed(0))
    assert 0 <= u.min() < u.max() <= 1
    for x in (0.1, 0.3, 0.7):
        assert (u <= x).float().mean().item() == pytest.approx(x ** (1 / power), abs=0.01)


def test_power_moves_equally_spaced_positions_too():
    u = PiecewiseReflow(positions=4, power=2.0)._draw(1000, torch.Generator().manual_seed(0))
    assert u.unique().tolist() == [0, 1 / 16, 1 / 4, 9 / 16]


@pytest.mark.parametrize("weighting", ["endpoint", "velocity"])
@pytest.mark.parametrize("penalty", ["mse", "huber"])
def test_weights_act_on_the_error_before_the_penalty(weighting, penalty):
    """A weight says where an error is measured, so huber counts the error measured there."""
    pairs, flow = batch(), FLOW
    u = torch.rand(len(pairs.k), generator=generator(0, "train", 0, 5))
    x = flow.interpolate(pairs.start, pairs.end, pairs.k, u)
    weight = flow.endpoint_weight(pairs.k) if weighting == "endpoint" else flow.velocity_weight(pairs.k, u)
    error = weight * mean_square(torch.tanh(x), flow.target(pairs.start, pairs.end, pairs.k))
    got = loss(PiecewiseReflow(weighting=weighting, penalty=penalty))
    torch.testing.assert_close(got, PENALTIES[penalty](error).mean())


@pytest.mark.parametrize("options", [{}, {"penalty": "huber"}, {"weighting": "velocity"}, {"power": 2.0}])
def test_who_says_the_target_has_no_loss(options):
    pairs = batch()
    y = FLOW.target(pairs.start, pairs.end, pairs.k)
    exact = Learner(lambda x, timestep, condition: y, FLOW)
    assert loss(PiecewiseReflow(**options), exact) == 0


@pytest.mark.parametrize("power", [0.0, -1.0, float("inf"), float("nan")])
def test_a_power_that_moves_all_positions_to_an_end_is_refused(power):
    with pytest.raises(ValueError, match="power is a number above 0"):
        PiecewiseReflow(power=power)
