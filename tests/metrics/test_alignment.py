"""Prompt accuracy counts what was asked for, and only that."""

import numpy as np
import pytest

from perflow.metrics.alignment import correct, prompt_accuracy
from perflow.metrics.trial import Trial
from tests.metrics.conftest import image_set, without


def trial(predicted, wanted):
    samples = image_set(np.zeros((len(predicted["digit"]), 2)), per_prompt=2, predicted=predicted)
    return Trial(samples, samples, samples, samples, wanted)


@pytest.fixture
def random_trial(rng):
    predicted = {name: rng.integers(0, 2, 40) for name in ("digit", "fg")}
    wanted = {name: rng.integers(-1, 2, 20).repeat(2) for name in ("digit", "fg")}
    return trial(predicted, wanted)


def test_it_is_the_share_of_samples_with_all_specified_attributes(random_trial):
    right = asked = 0
    for item in range(40):
        specified = [name for name, labels in random_trial.wanted.items() if labels[item] != -1]
        if specified:
            asked += 1
            right += all(
                random_trial.samples.predicted[name][item] == random_trial.wanted[name][item] for name in specified
            )
    assert 0 < asked < 40
    assert prompt_accuracy(random_trial).value == pytest.approx(right / asked)


def test_replicates_leave_prompts_out(random_trial):
    for group, replicate in enumerate(prompt_accuracy(random_trial).replicates):
        kept = random_trial.samples.groups != group
        wanted = {name: labels[kept] for name, labels in random_trial.wanted.items()}
        samples = without(random_trial.samples, group)
        assert replicate == pytest.approx(prompt_accuracy(Trial(samples, samples, samples, samples, wanted)).value)


def test_one_wrong_attribute_is_wrong_and_an_open_one_is_not():
    wanted = {"digit": np.array([7, 7, -1]), "fg": np.array([1, 1, 1])}
    predicted = {"digit": np.array([7, 7, 3]), "fg": np.array([1, 2, 1])}
    assert correct(predicted, wanted).tolist() == [True, False, True]


def test_prompts_that_ask_for_nothing_leave_it_undefined():
    open_ended = trial({"digit": np.zeros(8, int)}, {"digit": np.full(8, -1)})
    assert np.isnan(prompt_accuracy(open_ended).value)
