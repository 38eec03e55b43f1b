"""Fidelity to the teacher's samples, and means over items for each window."""

import numpy as np
import pytest
from scipy.special import erf

from perflow.metrics.flow import per_window, start_gaps, teacher_mse
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without


def images(latents):
    return image_set(np.zeros((len(latents), 2)), per_prompt=2, latents=latents)


def trial(own, teacher, independent):
    return Trial(images(own), images(teacher), images(independent), images(own), {})


def test_teacher_mse_is_relative_to_the_teacher_from_the_same_noise(rng):
    teacher, other = rng.standard_normal((2, 16, 4, 3, 3)).astype(np.float32)
    own = teacher.copy()
    assert teacher_mse(trial(own, teacher, other)).value == 0
    own[5] += 2.0
    expected = 36 * 4 / np.square(teacher.astype(float)).sum()
    assert teacher_mse(trial(own, teacher, other)).value == pytest.approx(expected, rel=1e-5)
    assert teacher_mse(trial(0 * own, teacher, other)).value == pytest.approx(1)


def test_teacher_mse_replicates_leave_prompts_out(rng):
    own, teacher = rng.standard_normal((2, 16, 4, 3, 3))
    whole = trial(own, teacher, own)
    for group, replicate in enumerate(teacher_mse(whole).replicates):
        samples, reference = without(whole.samples, group), without(whole.teacher, group)
        assert replicate == pytest.approx(teacher_mse(Trial(samples, reference, reference, samples, {})).value)


def test_per_window_gives_each_window_its_mean_and_replicates(rng):
    values, groups = rng.standard_normal((12, 3)), np.arange(12) % 4
    found = per_window(values, groups)
    assert [window.value for window in found] == pytest.approx(values.mean(0).tolist())
    for group in range(4):
        expected = values[groups != group].mean(0)
        assert [window.replicates[group] for window in found] == pytest.approx(expected.tolist())


def test_the_gap_to_starts_is_zero_for_alike_and_known_for_shifted_gaussians(rng):
    """In one dimension E|X - Y| of normal X and Y + m has a closed form (the folded normal's mean)."""
    own, taught, shift = rng.standard_normal((2000, 1, 1)), rng.standard_normal((2000, 1, 1)), 1.5
    groups = np.arange(2000) % 10
    (alike,) = start_gaps(own, taught, groups)
    assert abs(alike.value) < 0.01
    (moved,) = start_gaps(own + shift, taught, groups)
    apart = 2 * np.exp(-(shift**2) / 4) / np.sqrt(np.pi) + shift * erf(shift / 2)
    assert moved.value == pytest.approx(2 * apart / (2 / np.sqrt(np.pi)) - 2, rel=0.05)


def test_gaps_are_by_window_and_leave_groups_out_on_both_sides(rng):
    own, taught, groups = rng.standard_normal((12, 3, 2)), rng.standard_normal((12, 3, 2)), np.arange(12) % 4
    found = start_gaps(own, taught, groups)
    assert len(found) == 3
    for k, window in enumerate(found):
        for group, replicate in enumerate(window.replicates):
            kept = groups != group
            (only,) = start_gaps(own[kept][:, k : k + 1], taught[kept][:, k : k + 1], groups[kept])
            assert replicate == pytest.approx(only.value)
