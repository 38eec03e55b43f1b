"""Precision, recall, density, coverage and spread: the right way round, and equal to what loops over pairs give."""

import numpy as np
import pytest
from scipy.linalg import logm

from perflow.metrics.diversity import coverage, density, diversity, precision, recall, vendi, vendi_score
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without


def trial(samples, teacher, wanted=None):
    wanted = {"digit": np.full(len(samples.features), -1)} if wanted is None else wanted
    return Trial(samples, samples, teacher, samples, wanted)


def covered(points, manifold):
    """Improved precision written out: within the third neighbour's distance of any point of the manifold."""
    radii = [sorted(np.linalg.norm(manifold - centre, axis=1))[3] for centre in manifold]
    inside = [
        any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(manifold, radii, strict=True))
        for point in points
    ]
    return np.mean(inside)


@pytest.fixture
def sets(rng):
    samples = image_set(rng.standard_normal((40, 3)) + 0.7, per_prompt=2)
    return samples, image_set(rng.standard_normal((40, 3)), per_prompt=2)


def test_precision_and_recall_are_the_published_ones(sets):
    samples, teacher = sets
    expected = covered(samples.features, teacher.features), covered(teacher.features, samples.features)
    assert 0.2 < expected[0] < 0.95
    assert expected[0] != expected[1]
    found = trial(samples, teacher)
    assert (precision(found).value, recall(found).value) == pytest.approx(expected)


def test_a_collapsed_model_has_precision_and_no_recall(rng):
    teacher = rng.standard_normal((200, 2))
    collapsed = trial(image_set(1e-3 * rng.standard_normal((200, 2)), 2), image_set(teacher, 2))
    assert precision(collapsed).value > 0.99
    assert recall(collapsed).value < 0.05


def test_a_scattered_model_has_recall_and_no_precision(rng):
    scattered = trial(image_set(30 * rng.standard_normal((200, 2)), 2), image_set(rng.standard_normal((200, 2)), 2))
    assert recall(scattered).value > 0.9
    assert precision(scattered).value < 0.2


@pytest.mark.parametrize("metric", [precision, recall, density, coverage, diversity, vendi])
def test_replicates_leave_prompts_out_on_both_sides(metric, sets):
    samples, teacher = sets
    found = metric(trial(samples, teacher))
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        reduced = trial(without(samples, group), without(teacher, group))
        assert replicate == pytest.approx(metric(reduced).value, rel=1e-9)


def balls(points, manifold):
    """Which point is how near to which centre, over that centre's distance to its fifth neighbour, written out."""
    reach = [sorted(np.linalg.norm(manifold - centre, axis=1))[5] for centre in manifold]
    return [[np.linalg.norm(p - c) <= r for c, r in zip(manifold, reach, strict=True)] for p in points]


def test_density_and_coverage_are_the_published_ones(sets):
    samples, teacher = sets
    inside = balls(samples.features, teacher.features)
    found = trial(samples, teacher)
    assert density(found).value == pytest.approx(np.sum(inside) / (5 * len(samples.features)))
    assert coverage(found).value == pytest.approx(np.mean(np.any(inside, axis=0)))
    swapped = trial(teacher, samples)
    for metric in (density, coverage):
        assert abs(metric(swapped).value - metric(found).value) > 0.02


def test_density_and_coverage_of_equal_distributions_are_the_closed_forms(rng):
    """arXiv 2002.09797, lemmas 1 and 2: 1, and 1 - prod (M - i) / (M + N - i), whatever the distribution."""
    n, m = 40, 60
    drawn = [
        trial(image_set(rng.exponential(size=(n, 3)), 2), image_set(rng.exponential(size=(m, 3)), 2))
        for _ in range(150)
    ]
    expected = 1 - np.prod([(m - i) / (m + n - i) for i in range(1, 6)])
    for metric, truth in ((density, 1), (coverage, expected)):
        values = [metric(one).value for one in drawn]
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(len(values))
        assert np.std(values) / np.sqrt(len(values)) < 0.01


def test_a_collapsed_model_is_dense_and_covers_nothing(rng):
    teacher = rng.standard_normal((200, 2))
    collapsed = trial(image_set(1e-3 * rng.standard_normal((200, 2)), 2), image_set(teacher, 2))
    assert density(collapsed).value > 0.5
    assert coverage(collapsed).value < 0.1


def test_a_scattered_model_is_not_dense_and_has_less_coverage_than_recall(rng):
    scattered = trial(image_set(30 * rng.standard_normal((200, 2)), 2), image_set(rng.standard_normal((200, 2)), 2))
    assert density(scattered).value < 0.1
    assert coverage(scattered).value < recall(scattered).value - 0.5


def test_stray_teacher_samples_make_precision_perfect_and_not_density(rng):
    near = rng.standard_normal((100, 2))
    stray = near.copy()
    stray[:3] = [[60, 60], [-60, 60], [60, -60]]
    poor = image_set(10 + rng.standard_normal((100, 2)), 2)
    plain, fooled = trial(poor, image_set(near, 2)), trial(poor, image_set(stray, 2))
    assert precision(plain).value == density(plain).value == 0
    assert precision(fooled).value == 1
    assert density(fooled).value <= 3 / 5


@pytest.mark.parametrize("metric", [precision, recall, density, coverage])
def test_too_few_for_a_ball_is_undefined(metric, rng):
    few = image_set(rng.standard_normal((4, 2)), 2)
    assert np.isnan(metric(trial(few, few)).value)


def entropy_of(similarity):
    """exp of the von Neumann entropy, by a matrix logarithm."""
    shares = similarity / len(similarity)
    return np.exp(-np.trace(shares @ logm(shares)).real)


def test_vendi_score_is_the_closed_form_and_the_matrix_logarithm(rng):
    assert vendi_score(np.ones((5, 3)) * [[1], [2], [3], [4], [5]]) == pytest.approx(1)
    assert vendi_score(3 * np.eye(4)) == pytest.approx(4)
    assert vendi_score(np.eye(3)[[0, 0, 1, 1, 2, 2]]) == pytest.approx(3)
    for cosine in (-0.5, 0.3, 0.9):
        shares = np.array([1 + cosine, 1 - cosine]) / 2
        pair = np.array([[1, 0], [cosine, np.sqrt(1 - cosine**2)]])
        assert vendi_score(pair) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    features = rng.standard_normal((6, 9))
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert vendi_score(features) == pytest.approx(entropy_of(units @ units.T), rel=1e-9)
    assert vendi_score(np.zeros((2, 3))) == pytest.approx(2)


def test_vendi_is_relative_to_the_teacher_and_counts_as_many_on_both_sides(rng):
    copies, different = np.ones((40, 8)), np.tile(np.eye(4, 8), (10, 1))
    assert vendi(trial(image_set(copies, 4), image_set(different, 4))).value == pytest.approx(1 / 4)
    assert vendi(trial(image_set(different, 4), image_set(copies, 4))).value == pytest.approx(4)
    said = np.full(40, 7)
    said[::4] = 3
    wrong = image_set(different, 4, predicted={"digit": said})
    right = image_set(different, 4, predicted={"digit": np.full(40, 7)})
    assert vendi(trial(wrong, right, {"digit": np.full(40, 7)})).value == pytest.approx(1)
    alone = image_set(different, 4, predicted={"digit": np.where(np.arange(40) % 4, 3, 7)})
    assert np.isnan(vendi(trial(alone, right, {"digit": np.full(40, 7)})).value)


def test_diversity_is_the_spread_within_prompts_relative_to_the_teacher(rng):
    centres = 50 * rng.standard_normal((30, 4)).repeat(5, 0)
    noise, other = rng.standard_normal((2, 150, 4))
    found = diversity(trial(image_set(centres + 0.3 * noise, 5), image_set(centres + noise, 5)))
    assert found.value == pytest.approx(0.3, rel=1e-9)
    assert diversity(trial(image_set(centres + noise, 5), image_set(centres + other, 5))).value == (
        pytest.approx(1, abs=0.1)
    )
    assert diversity(trial(image_set(centres, 5), image_set(centres + noise, 5))).value == 0


def test_errors_do_not_raise_diversity(rng):
    features, teacher = rng.standard_normal((2, 60, 4))
    wanted = {"digit": np.full(60, 7)}
    right = np.full(60, 7)
    right[::6] = 3
    far = features.copy()
    far[::6] += 1000
    sets = [
        trial(
            image_set(values, 6, predicted={"digit": right}),
            image_set(teacher, 6, predicted={"digit": np.full(60, 7)}),
            wanted,
        )
        for values in (features, far)
    ]
    assert diversity(sets[0]).value == pytest.approx(diversity(sets[1]).value)
    assert diversity(trial(image_set(far, 6), image_set(teacher, 6))).value > 50


def test_prompts_that_only_one_side_gets_right_do_not_count(rng):
    features = rng.standard_normal((40, 4))
    teacher = features.copy()
    teacher[:4] *= 100
    features[4:8] *= 100
    labels = np.full((2, 40), 7)
    labels[0, :4] = labels[1, 4:8] = 3
    own, other = (
        image_set(values, 4, predicted={"digit": said})
        for values, said in zip((features, teacher), labels, strict=True)
    )
    assert diversity(trial(own, other, {"digit": np.full(40, 7)})).value == pytest.approx(1)


def test_diversity_is_undefined_without_two_correct_samples(rng):
    features = rng.standard_normal((12, 4))
    nothing_right = trial(image_set(features, 3), image_set(features, 3), {"digit": np.full(12, 7)})
    assert np.isnan(diversity(nothing_right).value)
