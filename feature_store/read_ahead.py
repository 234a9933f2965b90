"""Making items one step ahead of their use, in one background thread. Knows nothing of what the items are."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item], depth: int) -> Generator[Item, None, None]:
    """Yield `items`, made in their order by one thread that is up to `depth` items ahead; an error of theirs is raised here.

    The thread ends with this generator: close it (contextlib.closing) where its user may stop early.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        ahead = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := ahead.popleft().result()) is not None:
            ahead.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
