"""Randomness belongs to the item."""

import torch

from perflow.core.rng import generator, normal


def test_an_item_does_not_depend_on_its_batch():
    whole = normal((4, 8, 8), 7, "noise", range(20))
    assert torch.equal(whole[13], normal((4, 8, 8), 7, "noise", [13])[0])
    assert torch.equal(whole[[3, 17]], normal((4, 8, 8), 7, "noise", [3, 17]))


def test_seed_label_and_item_each_matter():
    draws = [
        torch.rand(3, generator=generator(*name))
        for name in [
            (1, "a", 0),
            (2, "a", 0),
            (1, "b", 0),
            (1, "a", 1),
            (1, "a"),
            (1,),
            (1, "a", "0"),
            (1, "a0"),
        ]
    ]
    for i, first in enumerate(draws):
        assert not any(torch.equal(first, other) for other in draws[i + 1 :])


def test_the_same_name_gives_the_same_stream():
    assert torch.equal(torch.rand(3, generator=generator(1, "a", 5)), torch.rand(3, generator=generator(1, "a", 5)))


def test_items_of_a_stream_never_share_a_seed():
    # 100,000 independent 32-bit seeds hold a repeated one with probability 0.69
    assert len({generator(0, "noise", i).initial_seed() for i in range(100_000)}) == 100_000


def test_noise_is_standard_normal_across_neighbouring_items():
    noise = normal((256,), 0, "noise", range(2000)).double()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.01


def test_no_items():
    assert normal((4, 2), 0, "noise", []).shape == (0, 4, 2)


def test_global_randomness_is_left_alone():
    before = torch.random.get_rng_state()
    normal((3,), 0, "noise", range(3))
    assert torch.equal(before, torch.random.get_rng_state())
