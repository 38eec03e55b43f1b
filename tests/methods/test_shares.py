"""However a step's batch is cut, over processes or passes, a method learns the same from it."""

import pytest
import torch

from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator, step_generator
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.methods import METHODS, configuration, make
from perflow.pairs import PairBatch

BATCH, LABELS = 24, (0, "train", 0, 5)


@pytest.mark.parametrize("name", METHODS)
def test_the_losses_of_equal_shares_average_to_that_of_the_batch(name):
    """Each item meets the same numbers in whatever share it is."""
    row = {"path": "diffusion", "prediction": "ddim_eps"} | configuration(name).needs
    flow = PiecewiseFlow(Schedule.scaled_linear(), Windows.equal(4), row["path"], row["prediction"])
    weight = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    learner = Learner(lambda x, timestep, condition: x.double() @ weight + timestep[:, None] / 1000, flow)
    start, end = torch.randn(2, BATCH, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = PairBatch(start, end, torch.arange(BATCH) % 4, torch.zeros(BATCH, 1))
    method = make({"name": name})
    whole = method.loss(learner, learner, pairs, generator(*LABELS))
    for cuts in (1, 2, 4):
        size = BATCH // cuts
        losses = []
        for first in range(0, BATCH, size):
            share = slice(first, first + size)
            part = PairBatch(*(value[share] for value in pairs))
            losses.append(method.loss(learner, learner, part, step_generator(BATCH, share, *LABELS)))
        torch.testing.assert_close(sum(losses) / cuts, whole)
