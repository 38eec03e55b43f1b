"""Guidance: one forward for both halves, and none to spare at guidance 1."""

import pytest
import torch

from perflow.core.guidance import guided, nfe
from perflow.errors import PerflowError


class Network:
    """A network that counts its calls and mixes every input into its output."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, timestep, condition):
        self.batches.append(len(x))
        if isinstance(condition, dict):
            condition = condition["text"] + condition["pooled"][:, None]
        return torch.sin(x + 0.01 * timestep[:, None] + condition.sum(1))


x, timestep = torch.randn(3, 2), torch.tensor([999.0, 500.5, 0.0])
condition, null = torch.randn(3, 4, 2), torch.randn(1, 4, 2)


def test_guidance_one_is_the_plain_network_in_one_call():
    network = Network()
    assert torch.equal(guided(network, condition, None, 1)(x, timestep), Network()(x, timestep, condition))
    assert network.batches == [3]
    assert nfe(1) == nfe(1.0) == 1


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 7.5])
def test_guidance_is_w_cond_plus_one_minus_w_uncond_in_one_batch(w):
    network = Network()
    got = guided(network, condition, null, w)(x, timestep)
    plain = Network()
    want = w * plain(x, timestep, condition) + (1 - w) * plain(x, timestep, null.expand(3, -1, -1))
    torch.testing.assert_close(got, want)
    assert network.batches == [6]
    assert nfe(w) == 2


def test_named_conditions_are_doubled_name_by_name():
    named = {"text": condition, "pooled": torch.randn(3, 2)}
    nothing = {"text": null, "pooled": torch.zeros(1, 2)}
    got = guided(Network(), named, nothing, 3)(x, timestep)
    plain = Network()
    without = {"text": null.expand(3, -1, -1), "pooled": torch.zeros(3, 2)}
    want = 3 * plain(x, timestep, named) - 2 * plain(x, timestep, without)
    torch.testing.assert_close(got, want)


def test_halves_are_combined_in_fp32():
    half = guided(lambda x, timestep, condition: x.bfloat16(), condition, null, 4.5)(x, timestep)
    assert half.dtype == torch.float32


def test_guidance_without_a_null_condition_is_refused():
    with pytest.raises(PerflowError, match=r"guidance 4\.5 needs a null condition"):
        guided(Network(), condition, None, 4.5)
