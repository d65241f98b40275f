"""Work on threads, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int, *, ahead: int
) -> Iterator[Result]:
    """map() on threads, at most `ahead` results a worker ahead, so memory does not grow."""
    with ThreadPoolExecutor(workers) as pool:
        left = iter(items)
        waiting = [pool.submit(work, item) for item in islice(left, ahead * workers)]
        try:
            while waiting:
                yield waiting.pop(0).result()
                waiting += [pool.submit(work, item) for item in islice(left, 1)]
        finally:
            for future in waiting:
                future.cancel()
