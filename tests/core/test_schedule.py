"""alpha, sigma and timesteps as functions of continuous time."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from perflow.core.schedule import Schedule
from perflow.errors import PerflowError


def zero_terminal(schedule: Schedule) -> Schedule:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return Schedule(torch.cumprod(1 - rescale_zero_terminal_snr(betas), dim=0))


def test_the_table_is_stable_diffusions():
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    torch.testing.assert_close(Schedule.scaled_linear().alphas_cumprod.float(), theirs, rtol=1e-5, atol=1e-7)


def test_time_becomes_the_trained_timestep(schedule):
    times = torch.tensor([1, 0.75, 0.5, 0.25, 0.001, 0.0005, 0], dtype=torch.float64)
    assert schedule.index(times).tolist() == [999, 749, 499, 249, 0, 0, 0]
    assert schedule.index(1) == 999
    assert schedule.index(2 / 3).item() == pytest.approx(665.6667, abs=1e-4)


def test_at_integer_indices_it_is_the_table(schedule):
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(schedule.alpha(t) ** 2, schedule.alphas_cumprod, rtol=1e-10, atol=0)
    assert schedule.alpha(0.0) == schedule.alpha(0.001)


def test_variance_is_preserved_and_log_snr_is_their_ratio(schedule):
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t))
    torch.testing.assert_close(schedule.log_snr(t), (alpha / sigma).log())


def test_between_integers_log_snr_is_linear_and_falls(schedule):
    middle = schedule.log_snr(0.5005)
    torch.testing.assert_close(middle, (schedule.log_snr(0.5) + schedule.log_snr(0.501)) / 2)
    fine = schedule.log_snr(torch.linspace(0.001, 1, 20001, dtype=torch.float64))
    assert (fine[1:] < fine[:-1]).all()


def test_shapes_follow_the_times(schedule):
    assert schedule.alpha(0.3).shape == ()
    assert schedule.alpha(torch.rand(2, 3)).shape == (2, 3)
    assert schedule.alpha(torch.rand(3)).dtype == torch.float64


def test_zero_terminal_snr(schedule):
    flat = zero_terminal(schedule)
    assert flat.alphas_cumprod[-1] == 0
    assert flat.index(1) == 999
    assert (flat.alpha(1), flat.sigma(1), flat.log_snr(1)) == (0, 1, -torch.inf)
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    for values in (flat.alpha(t), flat.sigma(t), flat.log_snr(t)[:-1]):
        assert values.isfinite().all()
    alpha = flat.alpha(t[t >= 0.001])
    assert (alpha[1:] < alpha[:-1]).all()
    # no jump where the log-SNR falls without end
    assert flat.alpha(0.999 + 1e-9) == pytest.approx(flat.alpha(0.999).item(), rel=1e-4)
    assert flat.alpha(1 - 1e-9) < 1e-6


@pytest.mark.parametrize("table", [[0.9], [0.5, 0.9], [0.9, 0.9], [1.0, 0.5], [0.9, -0.1], [[0.9, 0.5]]])
def test_a_table_that_is_no_schedule_is_refused(table):
    with pytest.raises(PerflowError, match="alphas_cumprod"):
        Schedule(torch.tensor(table))


@pytest.mark.parametrize("zero", [False, True])
def test_turn_is_the_rate_of_the_angle_towards_smaller_times(zero):
    schedule = Schedule.scaled_linear()
    if zero:
        schedule = Schedule(torch.cat([schedule.alphas_cumprod[:-1], torch.zeros(1, dtype=torch.float64)]))
    t = torch.cat(
        [
            torch.tensor([1.0, 0.5, 0.9995, 0.0012], dtype=torch.float64),
            torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        ]
    )

    def angle(t):
        return torch.atan2(schedule.sigma(t), schedule.alpha(t))

    h = 1e-8
    torch.testing.assert_close(schedule.turn(t), (angle(t) - angle(t - h)) / h, rtol=1e-4, atol=1e-4)
    assert schedule.turn(torch.tensor([0.0, 0.0004, 0.001], dtype=torch.float64)).tolist() == [0, 0, 0]
