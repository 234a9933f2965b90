"""Processes that a process starts: none outlives it, whatever ends it, and none goes on once it gave up waiting for them."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Make this process end when the one that started it is gone, however it went: a pool's processes would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def ended_on_error() -> Iterator[None]:
    """End the processes started inside when an error or an interrupt leaves it: a pool would first let them finish their work."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
