"""Precision, recall and spread: the right way round, and equal to what loops over pairs give."""

import numpy as np
import pytest

from perflow.metrics.diversity import diversity, precision, recall
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


@pytest.mark.parametrize("metric", [precision, recall, diversity])
def test_replicates_leave_prompts_out_on_both_sides(metric, sets):
    samples, teacher = sets
    found = metric(trial(samples, teacher))
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        reduced = trial(without(samples, group), without(teacher, group))
        assert replicate == pytest.approx(metric(reduced).value, rel=1e-9)


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
