"""Chunks are of one size, which follows the model and never the request."""

import torch

from perflow.core.chunks import chunked, fitting


def test_the_size_falls_with_the_latents_and_keeps_to_its_bounds():
    assert [fitting(side * side, "cpu") for side in (1, 8, 16, 32, 64, 128)] == [128, 128, 4, 1, 1, 1]
    assert [fitting(side * side, "cuda") for side in (1, 8, 16, 32, 64, 128, 512)] == [128, 128, 128, 64, 16, 4, 1]


def test_every_call_is_of_the_size_and_named_results_are_joined():
    sizes = []

    def function(x):
        sizes.append(len(x))
        return {"twice": 2 * x, "first": x[:, 0]}

    x = torch.arange(22.0).reshape(11, 2)
    found = chunked(function, 4, x)
    assert sizes == [4, 4, 4]
    assert torch.equal(found["twice"], 2 * x)
    assert torch.equal(found["first"], x[:, 0])
    assert torch.equal(chunked(lambda a, b: a + b, 4, x, x), 2 * x)
