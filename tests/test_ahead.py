"""Work ahead: in order, never more than a bound of it, and what it raises comes out where its result would."""

import threading
import time

import pytest

from perflow.ahead import mapped


def test_results_come_in_order_however_long_each_takes():
    def slow(number):
        time.sleep(0.002 * (number % 3 == 0))
        return number * number

    for threads in (0, 1, 4):
        assert list(mapped(slow, range(100), threads)) == [number * number for number in range(100)]


def test_no_thread_means_nothing_is_done_before_it_is_asked_for():
    done = []
    results = mapped(lambda number: done.append(number) or number, iter(range(9)), 0)
    assert done == []
    assert (next(results), done) == (0, [0])


def test_threads_work_ahead_of_whoever_takes_and_no_farther_than_the_bound():
    asked, done = [], []
    enough = threading.Event()

    def items():
        for number in range(1000):
            asked.append(threading.current_thread())
            yield number

    def work(number):
        done.append(threading.current_thread())
        if len(done) >= 20:
            enough.set()
        return number

    results = mapped(work, items(), 2)
    assert next(results) == 0
    assert enough.wait(30)  # without being asked for
    assert len(asked) <= 32
    assert set(asked) == {threading.current_thread()}
    assert threading.current_thread() not in done
    results.close()
    assert len(done) <= 32


@pytest.mark.parametrize("threads", [0, 2])
def test_what_is_raised_comes_where_the_result_would(threads):
    def work(number):
        if number == 5:
            raise ValueError("five")
        return number

    results = mapped(work, range(100), threads)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
