"""Windows and how sampling steps are laid over them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perflow.core.grid import WindowStep
from perflow.core.windows import Windows
from perflow.errors import PerflowError


def test_equal_windows():
    windows = Windows.equal(4)
    assert windows.edges == (1, 0.75, 0.5, 0.25, 0)
    assert len(windows) == 4
    assert (windows.start(0), windows.end(0)) == (1, 0.75)
    assert (windows.start(3), windows.end(3)) == (0.25, 0)


@given(st.integers(1, 40), st.integers(0, 60))
def test_steps_are_shared_out_evenly_and_the_noisiest_get_the_rest(count, more):
    windows, total = Windows.equal(count), count + more
    steps = windows.steps(total)
    each = [sum(step.k == k for step in steps) for k in range(count)]
    assert each == [total // count + (k < total % count) for k in range(count)]


@given(st.integers(1, 12), st.integers(0, 30))
def test_steps_cover_every_window_once_without_gaps(count, more):
    steps = Windows.equal(count).steps(count + more)
    place = WindowStep(0, 0, 0)
    for step in steps:
        if step.k != place.k:
            assert (step.k, place.u_to) == (place.k + 1, 1)
            place = WindowStep(step.k, 0, 0)
        assert step.u_from == place.u_to < step.u_to
        place = step
    assert (place.k, place.u_to) == (count - 1, 1)


def test_fewer_steps_than_windows_are_refused():
    with pytest.raises(PerflowError, match="3 are too few, 4 windows"):
        Windows.equal(4).steps(3)


@given(st.lists(st.integers(1, 999), min_size=1, max_size=9, unique=True))
def test_time_falls_through_the_windows_and_meets_their_edges(inner):
    windows = Windows((1, *(edge / 1000 for edge in sorted(inner, reverse=True)), 0))
    k = torch.arange(len(windows)).repeat_interleave(11)
    u = torch.linspace(0, 1, 11, dtype=torch.float64).repeat(len(windows))
    t = windows.time(k, u).reshape(len(windows), 11)
    assert (t[:, 1:] < t[:, :-1]).all()
    assert t[:, 0].tolist() == list(windows.edges[:-1])
    assert t[:, -1].tolist() == list(windows.edges[1:])


def test_time_takes_one_window_for_many_positions():
    assert Windows.equal(2).time(1, torch.tensor([0, 0.5])).tolist() == [0.5, 0.25]
    assert Windows.equal(2).time(torch.tensor([0, 1]), 0.5).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "edges", [(1,), (1, 1, 0), (1, 0.5), (0.9, 0), (0, 0.5, 1), (1, 0.2, 0.4, 0), (1, float("nan"), 0)]
)
def test_edges_that_do_not_fall_from_one_to_zero_are_refused(edges):
    with pytest.raises(PerflowError, match="must fall from 1 to 0"):
        Windows(edges)


def test_no_windows_are_refused():
    with pytest.raises(PerflowError, match="at least 1"):
        Windows.equal(0)
