"""What is done step by step waits for no device: nothing is read from it, and what is sent there is not waited for.

The device is torch's "meta": tensors there have shapes and no numbers, so whatever would read one fails, as does no GPU
that this machine lacks.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from perflow.core.fields import base_field, follow
from perflow.core.guidance import guided, told
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import step_generator
from perflow.core.schedule import Schedule
from perflow.core.solvers import SOLVERS
from perflow.core.windows import Windows
from perflow.methods import make
from perflow.pairs import PairBatch

SCHEDULE = Schedule.scaled_linear()


class Waits(TorchDispatchMode):
    """Counts copies to the device that are waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {arg.device.type for arg in args if isinstance(arg, torch.Tensor)}
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        there = "meta" in given or torch.device(kwargs.get("device") or "cpu").type == "meta"
        self.count += copies and "cpu" in given and there and not kwargs.get("non_blocking")
        return function(*args, **kwargs)


@pytest.fixture(scope="module")
def network():
    """(x, timestep, condition) -> output, a UNet of Stable Diffusion's shape; a condition may tell it more."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, cross_attention_dim=16, attention_head_dim=8,
            block_out_channels=(8, 16), norm_num_groups=4, time_cond_proj_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip
    return lambda x, t, c: unet(x, t, c["text"], timestep_cond=c.get("guidance"), return_dict=False)[0]


def there(*shape):
    return torch.empty(*shape, device="meta")


def test_the_watch_sees_what_waits():
    with Waits() as waits:
        torch.ones(3).to("meta", non_blocking=True)
        assert waits.count == 0
        torch.ones(3).to("meta")
        there(3).copy_(torch.ones(3))
        assert waits.count == 2
    for reads in (lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x.cpu(), lambda x: x.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads(there(3))


@pytest.mark.parametrize("guidance", [1.0, 4.5, "each item's own"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_teacher_solves_its_windows_without_a_wait(network, solver, guidance):
    condition, null = {"text": there(6, 5, 16)}, {"text": there(1, 5, 16)}
    scale = torch.rand(6) + 1 if isinstance(guidance, str) else guidance
    with Waits() as waits:
        field = base_field(guided(network, condition, null, scale), SCHEDULE, "v")
        assert SOLVERS[solver](field, there(6, 4, 8, 8), [1.0, 0.7, 0.4], SCHEDULE).device.type == "meta"
    assert waits.count == 0


@pytest.mark.parametrize(("path", "prediction"), [("straight", "velocity"), ("diffusion", "ddim_eps")])
def test_a_student_is_drawn_without_a_wait(network, path, prediction):
    flow = PiecewiseFlow(SCHEDULE, Windows.equal(4), path, prediction)
    with Waits() as waits:
        says = guided(network, told({"text": there(6, 5, 16)}, 3.0, 4), None, 1)
        assert follow(says, flow, there(6, 4, 8, 8), flow.windows.steps(8)).device.type == "meta"
    assert waits.count == 0


@pytest.mark.parametrize(("options", "path", "prediction"), [
    ({"name": "piecewise_reflow"}, "straight", "velocity"),
    ({"name": "piecewise_reflow", "positions": 4, "power": 2.0}, "straight", "diff_eps"),
    ({"name": "piecewise_reflow", "weighting": "endpoint", "penalty": "huber"}, "diffusion", "ddim_eps"),
    ({"name": "piecewise_reflow", "weighting": "velocity"}, "diffusion", "ddim_eps"),
    ({"name": "distill"}, "straight", "velocity"),
    ({"name": "consistency"}, "diffusion", "ddim_eps"),
])  # fmt: skip
def test_a_student_learns_without_a_wait(network, options, path, prediction):
    flow = PiecewiseFlow(SCHEDULE, Windows.equal(4), path, prediction)
    learner = Learner(network, flow)
    pairs = PairBatch(there(6, 4, 8, 8), there(6, 4, 8, 8), torch.arange(6) % 4, {"text": there(6, 5, 16)})
    with Waits() as waits:
        loss = make(options).loss(learner, learner, pairs, step_generator(6, slice(None), 0, "step", 1))
        loss.backward()
    assert (loss.device.type, loss.shape, waits.count) == ("meta", (), 0)
