"""Solvers against diffusers, and against a flow that is known exactly."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from perflow.core import SOLVER_CALLS
from perflow.core.schedule import Schedule
from perflow.core.solvers import SOLVERS, evaluations
from perflow.errors import PerflowError

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def says(x, index):
    """A network that is smooth, nonlinear and depends on its timestep."""
    return 0.8 * torch.tanh(1.3 * x) + 0.2 * math.cos(float(index) / 150)


def diffusers_result(scheduler, x, steps):
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        x = scheduler.step(says(x, timestep), timestep, x).prev_sample
    return x


def our_result(name, schedule, x, steps):
    times = [1 - i / steps for i in range(steps + 1)]
    return SOLVERS[name](lambda x, t: says(x, schedule.index(t)), x, times, schedule)


# Step counts that divide 1000: otherwise diffusers' DDIM lands beside its own next node.
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20, 50, 200])
def test_ddim_is_diffusers_ddim(schedule, steps):
    # set_alpha_to_one=False: our t=0 is ᾱ[0]
    theirs = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False)
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        our_result("ddim", schedule, x, steps), diffusers_result(theirs, x, steps), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20, 50, 200])  # 15 is where the last step changes order
def test_dpmpp_2m_is_diffusers_multistep_solver(schedule, steps):
    # sigma_min: the last node is ᾱ[0], our t=0
    theirs = DPMSolverMultistepScheduler(**SCHEDULE, timestep_spacing="trailing", final_sigmas_type="sigma_min")
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        our_result("dpmpp_2m", schedule, x, steps), diffusers_result(theirs, x, steps), rtol=1e-5, atol=2e-5
    )


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.9, 0.1)])
def test_order_of_convergence_to_the_exact_flow(mixture, name, order, start, end):
    x = torch.linspace(-2.5, 2.5, 201, dtype=torch.float64)
    exact = mixture.flow(x, start, end)

    def error(steps):
        times = torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()
        return (SOLVERS[name](mixture.epsilon, x, times, mixture.schedule) - exact).abs().mean().item()

    errors = [error(steps) for steps in (32, 64, 128)]
    rates = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert rates == pytest.approx([order, order], abs=0.1), errors


@pytest.mark.parametrize("name", SOLVERS)
def test_uneven_grids_converge_too(mixture, name):
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)
    times = [1 - (i / 300) ** 1.5 for i in range(301)]
    got = SOLVERS[name](mixture.epsilon, x, times, mixture.schedule)
    assert (got - mixture.flow(x, 1, 0)).abs().mean() < 0.02


@pytest.mark.parametrize("name", SOLVERS)
def test_constant_epsilon_is_integrated_exactly_by_all(schedule, name):
    x0, eps = torch.randn(2, 50, dtype=torch.float64)
    start = schedule.alpha(1) * x0 + schedule.sigma(1) * eps
    # below 1/T the schedule is flat: steps of no length
    times = [1, 0.8, 0.35, 0.3, 0.02, 0.0008, 0.0006, 0.0003, 0]
    got = SOLVERS[name](lambda x, t: eps, start, times, schedule)
    torch.testing.assert_close(got, schedule.alpha(0) * x0 + schedule.sigma(0) * eps)


@pytest.mark.parametrize("name", SOLVERS)
def test_calls_are_counted(schedule, name):
    calls = []
    SOLVERS[name](lambda x, t: calls.append(t) or x, torch.ones(1), [1, 0.6, 0.3, 0], schedule)
    assert len(calls) == evaluations(name, 3)


def test_what_is_known_without_torch_is_true():
    assert {name: solver.calls for name, solver in SOLVERS.items()} == SOLVER_CALLS


@pytest.mark.parametrize("name", SOLVERS)
def test_half_precision_latents_become_fp32(schedule, name):
    got = SOLVERS[name](lambda x, t: x.bfloat16(), torch.ones(2).bfloat16(), [1, 0.5, 0], schedule)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("times", [[0.5], [0.2, 0.5], [0.5, 0.5], [1.2, 0], [0.5, -0.1]])
def test_grids_that_do_not_fall_are_refused(schedule, times):
    with pytest.raises(PerflowError, match="must fall within"):
        SOLVERS["ddim"](lambda x, t: x, torch.ones(1), times, schedule)


def test_epsilon_cannot_leave_zero_snr():
    schedule = Schedule(torch.tensor([0.9, 0.5, 0.0]))
    with pytest.raises(PerflowError, match="SNR is 0"):
        SOLVERS["ddim"](lambda x, t: x, torch.ones(1), [1, 0], schedule)
    assert SOLVERS["ddim"](lambda x, t: x, torch.ones(1), [0.9, 0], schedule).isfinite().all()


def test_an_unknown_solver_lists_the_known():
    with pytest.raises(PerflowError, match="ddim, dpmpp_2m, heun"):
        evaluations("euler", 4)
