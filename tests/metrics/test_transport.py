"""Crossing, transport cost, straightness and marginals against values known in closed form."""

import numpy as np
import pytest
from scipy.stats import energy_distance

from perflow.metrics import transport
from perflow.metrics.flow import evaluations
from perflow.metrics.intervals import interval
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set


def trial(paths, real=None, calls=None):
    """Paths [N, n + 1, 2] of independent points, in 20 groups, against real points [M, 2]."""
    groups = np.arange(len(paths)) % 20
    samples = image_set(paths[:, -1].astype(float), groups=groups, paths=paths, calls=calls)
    return Trial(samples, samples, samples, image_set(paths[:, -1] if real is None else real), {})


def between(low, high):
    """Paths of one step from (0, low) to (1, high), heights [N]."""
    ends = (np.stack([np.full_like(low, at), height], axis=1) for at, height in ((0.0, low), (1.0, high)))
    return np.stack(list(ends), axis=1)


def test_independent_heights_cross_half_of_the_time_and_ordered_ones_never(rng):
    """Segments from x = 0 to x = 1 cross if and only if their heights change order."""
    low, high = rng.random((2, 400))
    found = interval(transport.crossing(trial(between(low, high))), 0.999)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert transport.crossing(trial(between(low, low**3))).value == 0
    assert transport.crossing(trial(between(low, -low))).value == 1


def test_replicates_of_crossing_leave_points_out(rng):
    paths = between(*rng.random((2, 60)))
    whole = trial(paths)
    for group, replicate in enumerate(transport.crossing(whole).replicates):
        kept = whole.samples.groups != group
        assert replicate == pytest.approx(transport.crossing(trial(paths[kept])).value)


def test_segments_that_touch_do_not_cross():
    cross, corner = np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 1, 0]])
    assert transport.crosses(cross, np.array([[0.0, 2, 2, 0], [2, 2, 3, 0], [0, 3, 3, 3]])).tolist() == [[1, 0, 0]]
    assert transport.crosses(cross, corner).tolist() == [[0]]
    assert transport.crosses(cross, cross).tolist() == [[0]]


def test_the_random_coupling_pairs_starts_with_real_points(rng):
    low, high = rng.random((2, 400))
    measured = trial(between(low, low), real=between(low, high)[:, 1])
    found = interval(transport.crossing_random(measured), 0.999)
    assert found.low < 0.5 < found.high
    assert transport.crossing(measured).value == 0
    assert transport.transport_square_random(measured).value == pytest.approx(1 + np.square(high - low).mean())
    assert transport.transport_square(measured).value == 1


@pytest.mark.parametrize(("cost", "power"), [("norm", 1), ("square", 2), ("fourth", 4)])
def test_a_shift_costs_its_length_to_the_power(rng, cost, power):
    starts = rng.standard_normal((50, 2))
    paths = np.stack([starts, starts + (3, 4)], axis=1)
    found = interval(getattr(transport, f"transport_{cost}")(trial(paths)), 0.95)
    assert found == pytest.approx([5**power] * 3)


def test_a_wedge_has_its_straightness(rng):
    """Half of the time at speed 2 to the right, half at speed 2 upwards, with chord (1, 1): S = 2. A line has 0."""
    wedge = np.tile(np.array([[0.0, 0], [1, 0], [1, 1]]), (40, 1, 1))
    assert transport.straightness(trial(wedge)).value == pytest.approx(2)
    line = np.linspace(0, 1, 8)[None, :, None] * rng.standard_normal((40, 1, 2))
    assert transport.straightness(trial(line)).value == pytest.approx(0, abs=1e-12)


def test_evaluations_are_a_mean_over_points(rng):
    calls = rng.integers(13, 60, 40)
    found = evaluations(trial(rng.random((40, 2, 2)), calls=calls))
    assert found.value == pytest.approx(calls.mean())


def test_energy_distance_is_scipys_without_its_bias(rng):
    """scipy's, squared, is the same with each point paired with itself too; on a line, as scipy has it."""
    x, y = rng.standard_normal((300, 1)), rng.standard_normal((200, 1)) * 1.5 + 0.4
    within = [-transport.minus_distance(part, part).sum() / len(part) ** 2 for part in (x, y)]
    bias = sum(mean / (len(part) - 1) for mean, part in zip(within, (x, y), strict=True))
    groups = np.arange(300) % 10
    samples = image_set(x, groups=groups)
    found = transport.energy_real(Trial(samples, samples, samples, image_set(y), {}))
    assert found.value == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2 - bias)
    same = [rng.standard_normal((2, 100, 2)) for _ in range(40)]
    values = []
    for one, other in same:
        samples = image_set(one, groups=np.arange(100) % 10)
        values.append(transport.energy_real(Trial(samples, samples, samples, image_set(other), {})).value)
    assert abs(np.mean(values)) < 4 * np.std(values) / 40**0.5
