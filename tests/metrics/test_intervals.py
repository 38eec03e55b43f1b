"""Intervals cover what they say they cover; Holm is Holm."""

import numpy as np
import pytest
from scipy import stats

from perflow.metrics import distance, diversity
from perflow.metrics.intervals import deal, holm, interval, ratio
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set

REPEATS = 400


def coverage(draw, truth=None, repeats=REPEATS):
    """Share of 95 % intervals that hold ``truth``, or the mean of the estimates."""
    found = [draw() for _ in range(repeats)]
    truth = np.mean([one.value for one in found]) if truth is None else truth
    bounds = [interval(one, 0.95) for one in found]
    return np.mean([one.low <= truth <= one.high for one in bounds])


def gaussian(rng, shift=0.0, scale=1.0, centres=0.0):
    return image_set(centres + shift + scale * rng.standard_normal((240, 6)), per_prompt=4, groups=20)


def nominal(share):
    """Within what 400 repetitions of a 95 % interval can show (three standard errors and a bit)."""
    return 0.915 <= share <= 0.985


@pytest.mark.parametrize("metric", [distance._frechet, distance.kernel_distance])
@pytest.mark.parametrize("similar", [0.0, 0.8])
def test_coverage_of_distances_is_nominal(metric, similar, rng):
    """For the statistic's expectation at this N; images of a prompt may resemble each other."""

    def draw():
        centres = similar * rng.standard_normal((60, 6)).repeat(4, 0)
        return metric(gaussian(rng, 0.3, 1.15, centres), gaussian(rng, centres=centres))

    assert nominal(coverage(draw))


@pytest.mark.parametrize("metric", [distance._frechet, distance.kernel_distance])
def test_coverage_of_distances_to_fixed_images_is_nominal(metric, rng):
    real = image_set(rng.standard_normal((1000, 6)))
    assert nominal(coverage(lambda: metric(gaussian(rng, 0.3, 1.15), real)))


@pytest.mark.parametrize("metric", [distance._frechet, distance.kernel_distance])
def test_intervals_of_equal_distributions_are_not_too_narrow(metric, rng):
    assert coverage(lambda: metric(gaussian(rng), gaussian(rng))) >= 0.93


def unlike(rng):
    """A model and its teacher, whose images of a prompt resemble each other."""
    centres = 0.8 * rng.standard_normal((60, 6)).repeat(4, 0)
    samples, teacher = gaussian(rng, 0.3, 1.15, centres), gaussian(rng, centres=centres)
    return Trial(samples, samples, teacher, samples, {"digit": np.full(240, -1)})


def test_coverage_of_the_vendi_score_is_nominal(rng):
    assert nominal(coverage(lambda: diversity.vendi(unlike(rng))))


@pytest.mark.parametrize("metric", [diversity.density, diversity.coverage])
def test_intervals_from_nearest_neighbours_are_not_too_narrow(metric, rng):
    """They are too wide: without a group all balls grow."""
    assert coverage(lambda: metric(unlike(rng)), repeats=100) >= 0.93


def test_coverage_of_a_mean_needs_whole_prompts(rng):
    def draw(group_of):
        values = (rng.standard_normal(60).repeat(4) + rng.standard_normal(240)) / 2
        return ratio(values, np.ones(240), group_of)

    prompts, scattered = np.arange(240) // 4, np.arange(240)
    assert nominal(coverage(lambda: draw(deal(prompts, 20)), truth=0.0))
    assert coverage(lambda: draw(deal(scattered, 20)), truth=0.0) < 0.88


def test_the_interval_of_a_mean_is_students(rng):
    values, groups = rng.standard_normal(80), np.arange(80) % 8
    means = [values[groups == group].mean() for group in range(8)]
    low, high = stats.t.interval(0.9, 7, np.mean(means), stats.sem(means))
    assert interval(ratio(values, np.ones(80), groups), 0.9) == pytest.approx((values.mean(), low, high))


def test_sums_give_what_recomputing_gives(rng):
    above, below, groups = *rng.uniform(1, 2, (2, 30)), np.arange(30) % 7
    found = ratio(above, below, groups)
    assert found.value == pytest.approx(above.sum() / below.sum())
    kept = [groups != group for group in range(7)]
    np.testing.assert_allclose(found.replicates, [above[mask].sum() / below[mask].sum() for mask in kept])


def test_a_ratio_of_nothing_is_undefined():
    assert np.isnan(ratio(np.zeros(6), np.zeros(6), np.arange(6) % 2).value)


def test_prompts_are_dealt_whole_and_evenly():
    groups = deal(np.arange(69) // 3, 5)
    assert all(len(set(groups[3 * p : 3 * p + 3])) == 1 for p in range(23))
    sizes = np.bincount(groups)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 3
    assert deal(np.arange(6) // 2, 20).max() == 2


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).tolist() == []


def test_holm_keeps_the_chance_of_any_false_rejection(rng):
    rejected = [holm(rng.uniform(size=8)).min() < 0.05 for _ in range(2000)]
    naive = [rng.uniform(size=8).min() < 0.05 for _ in range(2000)]
    assert np.mean(rejected) < 0.07
    assert np.mean(naive) > 0.25
