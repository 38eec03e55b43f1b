"""Distances against closed forms, clean-fid, scipy and sums written out."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from perflow.metrics import distance
from perflow.metrics.distance import Moments, frechet, kernel, kernel_distance, moments
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without


def covariance(rng, size):
    a = rng.standard_normal((size, 2 * size))
    return a @ a.T / size


def trial(samples, teacher, real):
    return Trial(samples, teacher, teacher, real, {})


def test_frechet_of_commuting_gaussians_is_the_closed_form(rng):
    a, b = rng.uniform(0.1, 3, (2, 6))
    means = rng.standard_normal((2, 6))
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    one, two = (Moments(mean, basis * d @ basis.T) for mean, d in zip(means, (a, b), strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet(one, two) == pytest.approx(expected, rel=1e-12)
    assert frechet(two, one) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_any_gaussians_equals_scipy_and_clean_fid(rng):
    from cleanfid.fid import frechet_distance

    one, two = (Moments(rng.standard_normal(12), covariance(rng, 12)) for _ in range(2))
    root = sqrtm(one.covariance @ two.covariance).real
    by_hand = np.square(one.mean - two.mean).sum() + np.trace(one.covariance + two.covariance - 2 * root)
    assert frechet(one, two) == pytest.approx(by_hand, rel=1e-9)
    assert frechet(one, two) == pytest.approx(frechet_distance(*_pair(one), *_pair(two)), rel=1e-9)


def _pair(found):
    return found.mean, found.covariance


def test_frechet_takes_singular_covariances(rng):
    x = rng.standard_normal((5, 12))
    assert frechet(moments(x), moments(x)) == pytest.approx(0, abs=1e-6)
    flat = Moments(np.zeros(3), np.zeros((3, 3)))
    assert frechet(flat, Moments(np.zeros(3), np.diag([1.0, 4, 9]))) == pytest.approx(14)


def test_moments_are_the_sample_moments(rng):
    x = rng.standard_normal((50, 7)) * 3 + 100
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-8)
    np.testing.assert_allclose(found.root @ found.root, found.covariance, rtol=1e-8)


def test_kernel_distance_of_independent_images_equals_clean_fid(rng):
    from cleanfid.fid import kernel_distance as reference

    x, y = rng.standard_normal((60, 9)), 1.3 * rng.standard_normal((60, 9)) + 0.2
    expected = reference(x, y, num_subsets=1, max_subset_size=60)
    assert kernel_distance(image_set(x), image_set(y)).value == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_of_prompts_is_the_distance_of_their_mixtures(rng):
    x, y = image_set(rng.standard_normal((12, 4)), 3), image_set(rng.standard_normal((12, 4)) + 1, 3)
    assert kernel_distance(x, y).value == pytest.approx(mixture_distance(x, y), rel=1e-10)


def mixture_distance(x, y):
    """Mean over prompts p and q, of x and y, of the mean kernel of two different images of p and q."""

    def mean(a, b):
        total = []
        for p in range(a.prompts.max() + 1):
            for q in range(b.prompts.max() + 1):
                pairs = [
                    (u @ v / len(u) + 1) ** 3
                    for i, u in enumerate(a.features)
                    for j, v in enumerate(b.features)
                    if a.prompts[i] == p and b.prompts[j] == q and not (a is b and i == j)
                ]
                total.append(np.mean(pairs))
        return np.mean(total)

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def test_kernel_distance_is_zero_in_the_mean_for_equal_models(rng):
    """Also where images of a prompt resemble each other, which biases the usual estimator."""
    found, usual = [], []
    for _ in range(400):
        prompts = 1.5 * rng.standard_normal((10, 3)).repeat(4, 0)
        x, y = (prompts + rng.standard_normal((40, 3)) for _ in range(2))
        found.append(kernel_distance(image_set(x, 4), image_set(y, 4)).value)
        usual.append(kernel_distance(image_set(x), image_set(y)).value)

    def deviation(values):
        return np.mean(values) / (np.std(values) / np.sqrt(len(values)))

    assert abs(deviation(found)) < 3.5
    assert abs(deviation(usual)) > 7


def test_kernel_is_the_polynomial():
    assert kernel(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])) == pytest.approx((11 / 2 + 1) ** 3)


@pytest.mark.parametrize("name", ["fd_teacher", "fd_real", "kid_teacher", "kid_real"])
def test_replicates_leave_prompts_out_of_the_samples_and_the_teacher_but_not_of_real_images(name, rng):
    samples = image_set(rng.standard_normal((44, 5)), per_prompt=2)
    teacher = image_set(rng.standard_normal((44, 5)) * 1.2, per_prompt=2)
    real = image_set(rng.standard_normal((70, 5)) + 0.3)
    metric = getattr(distance, name)
    found = metric(trial(samples, teacher, real))
    assert len(found.replicates) == 4
    for group, replicate in enumerate(found.replicates):
        reduced = trial(without(samples, group), without(teacher, group), real)
        assert replicate == pytest.approx(metric(reduced).value, rel=1e-9)


def test_independent_images_are_left_out_group_by_group_against_prompts(rng):
    """Images whose prompts are unknown, beside the teacher's: each replicate is the distance of what is left."""
    features, groups = rng.standard_normal((30, 5)) + 0.2, np.arange(30) % 4
    samples = image_set(features, groups=groups)
    teacher = image_set(rng.standard_normal((44, 5)), per_prompt=2)
    for metric in (distance.fd_teacher, distance.kid_teacher):
        found = metric(trial(samples, teacher, teacher))
        for group, replicate in enumerate(found.replicates):
            kept = features[groups != group]
            left = image_set(kept, groups=np.arange(len(kept)) % 2), without(teacher, group)
            assert replicate == pytest.approx(metric(trial(*left, teacher)).value, rel=1e-9)
    x, y = features, teacher.features[:30]
    dealt = kernel_distance(*(image_set(part, groups=groups) for part in (x, y)))
    assert dealt.value == pytest.approx(kernel_distance(image_set(x), image_set(y)).value, rel=1e-9)


@pytest.mark.parametrize("name", ["fd", "kid"])
def test_the_teacher_is_the_one_from_other_noise(name, rng):
    samples = image_set(rng.standard_normal((40, 5)), per_prompt=2)
    far = image_set(rng.standard_normal((40, 5)) + 5, per_prompt=2)
    metric = getattr(distance, f"{name}_teacher")
    assert metric(Trial(samples, far, samples, samples, {})).value < 1e-6
    assert metric(Trial(samples, samples, far, samples, {})).value > 1
