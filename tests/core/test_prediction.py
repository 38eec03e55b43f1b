"""Prediction types are inverse pairs that agree with the definition of the noised sample."""

import pytest
import torch

from perflow.core.prediction import PREDICTIONS, from_epsilon, to_epsilon
from perflow.errors import PerflowError


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("t", [0.0, 0.2, 0.73, 1.0])
def test_to_and_from_epsilon_are_inverse(schedule, prediction, t):
    x, eps = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scales = schedule.alpha(t), schedule.sigma(t)
    output = from_epsilon(prediction, eps, x, *scales)
    torch.testing.assert_close(to_epsilon(prediction, output, x, *scales), eps)
    torch.testing.assert_close(from_epsilon(prediction, to_epsilon(prediction, eps, x, *scales), x, *scales), eps)


def test_all_say_the_same_of_a_noised_sample(schedule):
    x0, eps = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    a, s = alpha.reshape(-1, 1, 1, 1), sigma.reshape(-1, 1, 1, 1)
    for prediction, output in (("epsilon", eps), ("x0", x0), ("v", a * eps - s * x0)):
        torch.testing.assert_close(to_epsilon(prediction, output, a * x0 + s * eps, alpha, sigma), eps)


def test_v_is_defined_at_zero_snr():
    x, v = torch.randn(2, 3, 2)
    torch.testing.assert_close(to_epsilon("v", v, x, 0.0, 1.0), x)


def test_half_precision_is_lifted(schedule):
    x = torch.randn(2, 4).bfloat16()
    assert to_epsilon("v", x, x, schedule.alpha(0.5), schedule.sigma(0.5)).dtype == torch.float32


def test_an_unknown_prediction_lists_the_known():
    with pytest.raises(PerflowError, match="epsilon, v, x0"):
        to_epsilon("flow", torch.zeros(1), torch.zeros(1), 0.5, 0.5)
