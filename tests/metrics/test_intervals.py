"""Intervals cover what they say they cover; comparisons are paired; Holm is Holm."""

import numpy as np
import pytest
from scipy import stats

from perflow.metrics import distance, intervals
from perflow.metrics.intervals import Estimate, compare, deal, holm, interval, jackknife, ratio
from tests.metrics.conftest import image_set

REPEATS = 400


def coverage(draw, truth=None):
    """Share of 95 % intervals that hold ``truth``, or the mean of the estimates."""
    found = [draw() for _ in range(REPEATS)]
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
    slow = jackknife(lambda kept: above[kept].sum() / below[kept].sum(), groups)
    quick = ratio(above, below, groups)
    assert quick.value == pytest.approx(slow.value)
    np.testing.assert_allclose(quick.replicates, slow.replicates)


def test_a_ratio_of_nothing_is_undefined():
    assert np.isnan(ratio(np.zeros(6), np.zeros(6), np.arange(6) % 2).value)


def test_prompts_are_dealt_whole_and_evenly():
    groups = deal(np.arange(69) // 3, 5)
    assert all(len(set(groups[3 * p : 3 * p + 3])) == 1 for p in range(23))
    sizes = np.bincount(groups)
    assert len(sizes) == 5
    assert sizes.max() - sizes.min() <= 3
    assert deal(np.arange(6) // 2, 20).max() == 2


def test_a_comparison_of_means_is_the_paired_t_test(rng):
    groups = np.arange(120) % 10
    common = rng.standard_normal(120)
    a, b = common + 0.3 * rng.standard_normal(120), common + 0.3 * rng.standard_normal(120) + 0.1
    one, two = (ratio(values, np.ones(120), groups) for values in (a, b))
    means = [[values[groups == g].mean() for g in range(10)] for values in (a, b)]
    expected = stats.ttest_rel(*means)
    found = compare(one, two)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert found.error == pytest.approx(abs(found.difference / expected.statistic))
    alone = np.hypot(*(intervals.standard_error(one.replicates) for one in (one, two)))
    assert found.error < alone / 2


def test_equal_rows_do_not_differ_and_a_constant_difference_is_certain():
    row = Estimate(1.0, np.array([0.5, 1.0, 1.5, 2.0]))
    assert compare(row, row).p == 1
    assert compare(Estimate(2.0, row.replicates + 1), row) == (1.0, 0.0, 0.0)


def test_rows_over_other_groups_are_not_compared():
    with pytest.raises(ValueError, match="4 and 5"):
        compare(Estimate(1.0, np.zeros(4)), Estimate(1.0, np.zeros(5)))


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
