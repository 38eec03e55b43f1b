"""A flow's steps dealt out to other windows are the same steps, cut where those windows meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perflow.core.grid import lay, stretches
from perflow.errors import PerflowError


def equal(count):
    return [(count - k) / count for k in range(count + 1)]


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_fewer_windows_get_the_steps_of_the_finer_flow(coarse, factor, each):
    """K·f windows with n steps each, seen from K windows: f·n steps, from edge to edge."""
    own, edges = equal(coarse * factor), equal(coarse)
    dealt = stretches(own, coarse * factor * each, edges)
    assert [step for steps in dealt for step in steps] == lay(coarse * factor, coarse * factor * each)
    assert [len(steps) for steps in dealt] == [factor * each] * coarse
    for steps, start, end in zip(dealt, edges, edges[1:], strict=False):
        first, last = steps[0], steps[-1]
        assert own[first.k] == pytest.approx(start)
        assert (first.u_from, last.u_to) == (0, 1)
        assert own[last.k + 1] == pytest.approx(end)


@given(st.integers(1, 8), st.integers(1, 4))
def test_more_windows_cut_a_window_of_the_flow_at_its_steps(count, each):
    dealt = stretches([1.0, 0.0], count * each, equal(count))
    for k, steps in enumerate(dealt):
        assert (steps[0].u_from, steps[-1].u_to) == pytest.approx((k / count, (k + 1) / count))
        assert {step.k for step in steps} == {0}


@pytest.mark.parametrize(
    ("own", "count", "edges", "says"),
    [
        (equal(4), 3, equal(2), "3 are too few, 4 windows need at least 4"),
        (equal(3), 3, equal(2), "steps: 3 of the teacher, on its 3 windows, do not meet the edge 0.5"),
        ([1, 0.5, 0.25, 0], 3, [1, 0.5, 0], r"fall unevenly on 2 windows: \[1, 2\]"),
    ],
)
def test_steps_that_do_not_fit_the_windows_are_refused(own, count, edges, says):
    with pytest.raises(PerflowError, match=says):
        stretches(own, count, edges)
