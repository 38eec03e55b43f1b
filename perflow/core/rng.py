"""Randomness that belongs to an item: batch size, order, devices and restarts leave item 137 as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator for one purpose, named by ``labels``: ``generator(seed, "noise", 137)``.

    torch's CPU engine keeps only 32 bits of its seed, so seeds hashed item by item would collide
    among some ten thousand items. A final integer label (the item) is therefore added to the hash of
    everything before it: the items of one stream are distinct by construction.
    """
    has_item = bool(labels) and isinstance(labels[-1], int)
    stream, item = (labels[:-1], int(labels[-1])) if has_item else (labels, 0)
    text = json.dumps([seed, list(stream), has_item])
    start = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return torch.Generator().manual_seed((start + item) % 2**32)


def normal(shape: Sequence[int], seed: int, label: str, indices: Iterable[int]) -> Tensor:
    """Standard normal noise [len(indices), *shape], fp32 on CPU; a row is a function of its index alone."""
    rows = [torch.randn(*shape, generator=generator(seed, label, int(index))) for index in indices]
    return torch.stack(rows) if rows else torch.empty(0, *shape)


class StepGenerator(torch.Generator):
    """The generator of a training step in a pass that sees only ``share`` of its ``batch`` items."""

    batch: int
    share: slice


def step_generator(batch: int, share: slice, seed: int, *labels: str | int) -> StepGenerator:
    """``generator(seed, *labels)`` for a pass over ``share`` of the ``batch`` items of a step."""
    rng = StepGenerator()
    rng.set_state(generator(seed, *labels).get_state())
    rng.batch, rng.share = batch, share
    return rng


def per_item(count: int, rng: torch.Generator, draw: Callable[[int], Tensor]) -> Tensor:
    """Draw something for each of ``count`` items by ``draw(n) -> [n, ...]``.

    With a StepGenerator it is drawn for the whole batch, and the share's is returned: so however a batch is cut, over
    processes or passes, an item meets the same numbers.
    """
    return draw(rng.batch)[rng.share] if isinstance(rng, StepGenerator) else draw(count)
