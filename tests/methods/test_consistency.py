"""Consistency distillation: exact where the consistency function is known, and sampled by diffusers' own scheduler."""

import pytest
import torch
from diffusers import LCMScheduler

from perflow.core.consistency import SIGMA_DATA, TIMESTEP_SCALING, boundary, jump
from perflow.core.learner import Learner
from perflow.core.piecewise import PiecewiseFlow
from perflow.core.rng import generator
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.methods.consistency import Consistency
from perflow.models import SCHEDULERS, schedulers
from perflow.pairs import PairBatch

SD = Schedule.scaled_linear()
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
OPTIONS = {"class": "LCMScheduler", **SCHEDULERS["lcm"].options}


def flow(windows=50):
    return PiecewiseFlow(SD, Windows.equal(windows), "diffusion", "ddim_eps")


def spread(t, data):
    """Standard deviation at t where the data are N(0, data²): the flow scales x by it, so it is known exactly."""
    return (SD.alpha(t) ** 2 * data**2 + SD.sigma(t) ** 2).sqrt()


def exact(data):
    """The epsilon network whose consistency function is that of data N(0, data²): f(x, t) = x spread(0) / spread(t)."""

    def network(x, timestep, condition=None):
        index = timestep.double()
        t = (index + 1) / 1000
        c_skip, c_out = (value[:, None] for value in boundary(index))
        alpha, sigma = SD.alpha(t)[:, None], SD.sigma(t)[:, None]
        end = x.double() * (spread(0.0, data) / spread(t, data))[:, None]
        predicted = torch.where(c_out > 0, (end - c_skip * x) / c_out.clamp(min=1e-12), 0.0)
        return (x - alpha * predicted) / sigma

    return network


def batch(data, windows=50, count=200):
    """Pairs on the exact trajectories: both ends of every window."""
    k = torch.arange(count) % windows
    start, end = (windows - k).double() / windows, (windows - k - 1).double() / windows
    x = torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x * spread(start, data)[:, None]
    return PairBatch(x, x * (spread(end, data) / spread(start, data))[:, None], k, torch.zeros(count, 1))


def loss(network, pairs, **options):
    learner = Learner(network, flow())
    return Consistency(**options).loss(learner, learner, pairs, generator(0, "train", 0, 1)).item()


@pytest.mark.parametrize("data", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("penalty", ["mse", "huber"])
def test_the_exact_consistency_function_has_no_loss_and_no_other_has_none(data, penalty):
    pairs = batch(data)
    assert loss(exact(data), pairs, penalty=penalty) < 1e-9
    assert loss(exact(1.5 * data), pairs, penalty=penalty) > 1e-5


def test_at_the_end_of_time_the_point_is_its_own_end_whatever_the_network_says():
    last = torch.full((8,), 49)
    x = torch.randn(8, 6, dtype=torch.float64)
    wild = Learner(lambda x, timestep, condition: 100 * torch.ones_like(x), flow())
    assert torch.equal(jump(wild, x, last, torch.ones(8), torch.zeros(8, 1)), x)


def test_the_gradient_reaches_the_student_and_not_its_target():
    student, target = (torch.nn.Linear(6, 6).double() for _ in range(2))
    learners = [Learner(lambda x, t, c, net=net: net(x), flow()) for net in (student, target)]
    Consistency().loss(*learners, batch(1.0), generator(0)).backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in student.parameters())
    assert all(p.grad is None for p in target.parameters())


def test_scales_and_timesteps_are_diffusers():
    scheduler = LCMScheduler(**CONFIG, **SCHEDULERS["lcm"].options)
    scheduler.set_timesteps(50)
    assert SCHEDULERS["lcm"].options["timestep_scaling"] == TIMESTEP_SCALING
    taught = flow().timestep(torch.arange(50), 0.0)
    torch.testing.assert_close(scheduler.timesteps.double(), taught)
    for timestep in (0, 19, 499, 999):
        want = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        assert tuple(value.item() for value in boundary(torch.tensor(float(timestep)).double())) == pytest.approx(want)
    assert scheduler.sigma_data == SIGMA_DATA


@pytest.mark.parametrize("windows", [20, 50])
@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_what_is_taught_is_what_diffusers_samples(windows, steps):
    """Our jump and re-noising, on the edges the student was taught on, against LCMScheduler step by step."""
    options = OPTIONS | {SCHEDULERS["lcm"].grid: windows}
    network = Learner(lambda x, timestep, condition: torch.tanh(x) + timestep[:, None] / 2000, flow(windows))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(i) for i in range(5)]
    got = schedulers.draw(options, steps, CONFIG, lambda x, t: network.network(x, t, None), x, generators)

    noises = [torch.Generator().manual_seed(i) for i in range(5)]
    chosen = [int(j * windows / steps) for j in range(steps)]
    for j, k in enumerate(chosen):
        x = jump(network, x, torch.full((5,), k), torch.zeros(5), torch.zeros(5, 1))
        if j + 1 < steps:
            t = network.flow.time(chosen[j + 1], 0.0)
            noise = torch.cat([torch.randn(1, 6, generator=one) for one in noises])
            x = SD.alpha(t).float() * x + SD.sigma(t).float() * noise
    torch.testing.assert_close(got, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("data", [0.5, 1.0])
def test_sampling_the_exact_function_gives_the_data(data, steps):
    count = 4000
    rng = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 6, generator=rng) * spread(1.0, data).float()
    generators = [generator(0, "renoise-0", i) for i in range(count)]
    found = schedulers.draw(OPTIONS, steps, CONFIG, lambda x, t: exact(data)(x, t).float(), noise, generators)
    assert found.std().item() == pytest.approx(data, rel=0.02)
    assert found.mean().item() == pytest.approx(0, abs=0.02)
    kurtosis = (found**4).mean() / (found**2).mean() ** 2
    assert kurtosis.item() == pytest.approx(3, abs=0.15)
