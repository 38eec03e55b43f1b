"""Work that threads do ahead of whoever asks for it: what libraries do without Python's lock, as PNG and resizing."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST = 16
_EACH = 16
"""Items that are under way or wait to be taken, for each thread."""


def cores() -> int:
    """Cores that this process may use, up to 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST)


def helpers(device: str) -> int:
    """Threads that prepare images for a job on ``device``, or keep what it made.

    Beside a GPU one for each core: it is the GPU that must not wait. None on a CPU, where the other cores are other
    rows'.
    """
    return 0 if device == "cpu" else cores()


def mapped(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """``function`` of each of ``items``, in order, by ``threads`` threads ahead of whoever takes them; with none, when
    taken.

    ``items`` are asked for in the thread of whoever takes, and at most 16 for each thread are held, as they come or as
    they are returned. What ``function`` raises is raised where its result would be taken, and ends it all.
    """
    if not threads:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= threads * _EACH:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
