"""Where steps lie: against diffusers' own spacings, and against the quantity each is even in."""

import itertools

import diffusers
import pytest
import torch

from perflow.core import SPACINGS, spacing
from perflow.core.grid import lay
from perflow.core.schedule import Schedule
from perflow.core.windows import Windows
from perflow.errors import PerflowError
from perflow.models import SCHEDULERS, schedulers

SCHEDULE = Schedule.scaled_linear()
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
FREE = [name for name, found in SCHEDULERS.items() if not found.grid]


def gaps(values):
    return [b - a for a, b in itertools.pairwise(values)]


@pytest.mark.parametrize("name", ["trailing", "leading", "linspace"])
def test_the_named_three_are_diffusers_own(name):
    for count in (2, 4, 7, 10):
        scheduler = diffusers.DDIMScheduler(**CONFIG, timestep_spacing=name)
        scheduler.set_timesteps(count)
        ours = [1000 * t - 1 for t in spacing.times(name, count, SCHEDULE)]
        assert ours == pytest.approx(scheduler.timesteps.tolist(), abs=0.51 if name == "linspace" else 1e-6)


@pytest.mark.parametrize("name", SPACINGS)
def test_steps_fall_within_the_schedule(name):
    for count in (1, 2, 5, 32):
        found = spacing.times(name, count, SCHEDULE)
        assert len(found) == count
        assert all(step < 0 for step in gaps(found))
        assert 0 < found[-1] <= found[0] <= 1
        assert name == "leading" or found[0] == 1


@pytest.mark.parametrize(("name", "even"), [
    ("log_snr", lambda ratio: torch.log(ratio)),
    ("karras", lambda ratio: ratio ** (1 / 7)),
])  # fmt: skip
def test_a_spacing_is_even_in_its_own_quantity(name, even):
    """Nodes and the data's end, measured by sigma/alpha."""
    t = torch.tensor([*spacing.times(name, 6, SCHEDULE), 1 / 1000], dtype=torch.float64)
    found = gaps(even(torch.exp(-SCHEDULE.log_snr(t))).tolist())
    assert found == pytest.approx([found[0]] * 6, rel=1e-3)


def test_a_zero_terminal_snr_has_spacings_too():
    table = SCHEDULE.alphas_cumprod.clone()
    table[-1] = 0
    for name in SPACINGS:
        found = spacing.times(name, 4, Schedule(table))
        assert all(step < 0 for step in gaps(found))


def test_an_unknown_spacing_is_named():
    with pytest.raises(PerflowError, match="no 'even'; there are trailing"):
        spacing.times("even", 4, SCHEDULE)


def test_bent_steps_stay_in_their_windows_and_edges_stay_edges():
    windows = Windows((1.0, 0.7, 0.2, 0.0))
    even = spacing.window_times(windows, 7)
    assert spacing.window_steps(windows, even) == [pytest.approx(step, abs=1e-9) for step in lay(3, 7)]
    bent = spacing.warped(even, 1.6, windows.edges)
    assert {round(t, 9) for t in (1.0, 0.7, 0.2)} <= {round(t, 9) for t in bent}
    assert [step.k for step in spacing.window_steps(windows, bent)] == [step.k for step in lay(3, 7)]
    assert all(a < b for a, b in zip(bent, even, strict=True) if round(b, 9) not in (1.0, 0.7, 0.2))


def test_steps_that_skip_a_windows_start_are_refused():
    with pytest.raises(PerflowError, match="a window starts at 0.5"):
        spacing.window_steps(Windows.equal(2), [1.0, 0.6])


def network(x, timestep):
    return 0.3 * x * torch.cos(timestep[:, None, None, None] / 400) + 0.1 * torch.tanh(x)


def drawn(name, steps, times=None, field=network):
    found = SCHEDULERS[name]
    kind, options = found[:2] if times is None or found.placed is None else found.placed
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return schedulers.draw({"class": kind} | options, steps, CONFIG | {"prediction_type": "epsilon"}, field, noise, [],
                           times)  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_steps_placed_where_a_scheduler_has_them_change_nothing(name):
    for steps in (1, 4, 5):
        own, placed = drawn(name, steps), drawn(name, steps, spacing.times("trailing", steps, SCHEDULE))
        torch.testing.assert_close(placed, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FREE)
def test_the_network_is_asked_where_the_steps_begin_and_as_often_as_is_counted(name):
    times = [1.0, 0.62, 0.31, 0.07]
    asked = []

    def field(x, timestep):
        asked.append(float(timestep[0]))
        return network(x, timestep)

    drawn(name, 4, times, field)
    assert len(asked) == SCHEDULERS[name].evaluations(4)
    assert sorted(set(asked), reverse=True) == pytest.approx([1000 * t - 1 for t in times], abs=1e-3)


@pytest.mark.parametrize("name", FREE)
def test_steps_anywhere_lead_to_the_same_end_where_there_are_many(name):
    """A linear network's flow has one solution, whichever steps take it there."""
    many = [1 - i / 400 for i in range(400)]
    crowded = [(1 - i / 400) ** 1.3 for i in range(400)]
    ends = [drawn(name, 400, times, lambda x, t: 0.5 * x) for times in (many, crowded)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0.02, atol=0.02)
