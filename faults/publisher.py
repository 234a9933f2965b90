"""Publishers in processes of their own, which report each acknowledgement over a pipe and are killed by kills.py and writers.py.

What belongs here: the far side only. A server process that has imported everything and opened nothing forks each of them in
milliseconds; DuckDB, which must not be forked once it runs, starts in the child.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import duckdb

from faults.cohorts import COHORT, writes
from feature_store.errors import StoreMissingError
from feature_store.home import Home
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, publish

PROCESSES = multiprocessing.get_context("forkserver")
START_TIMEOUT_S = 60.0

Acknowledged = tuple[int, int | None]  # which publication, and its snapshot


class Publisher:
    """A child that publishes; `acknowledged` is what it has reported so far."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self.process = process
        self._pipe = pipe
        self.acknowledged: list[Acknowledged] = []

    def kill(self) -> None:
        """Send SIGKILL, wait for the end, and read what was acknowledged before it."""
        self.process.kill()
        self.join()

    def join(self, timeout_s: float = 120.0) -> int | None:
        """Read every acknowledgement to the end and return the exit code."""
        while self._next(timeout_s):
            pass
        self.process.join(timeout_s)
        return self.process.exitcode

    def wait(self, num_more: int = 1) -> None:
        """Wait for so many acknowledgements."""
        for _ in range(num_more):
            if not self._next(START_TIMEOUT_S):
                raise RuntimeError(f"publisher: ended with {self.process.exitcode} before it acknowledged")

    def _next(self, timeout_s: float) -> bool:
        try:
            if not self._pipe.poll(timeout_s):
                raise TimeoutError(f"publisher: nothing acknowledged and not ended in {timeout_s:g} s")
            self.acknowledged.append(self._pipe.recv())
        except (EOFError, OSError):  # the pipe's other end is gone, perhaps in the middle of a message
            return False
        return True


@contextmanager
def publisher(home: Home, staged: tuple[Staged, Staged], first: int, last: int | None = None, **more: Any) -> Iterator[Publisher]:
    """Start a child that publishes version `n % 2` for n from `first` to `last` (endlessly without); it is about to publish."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_publish, args=(theirs, home, staged, first, last), kwargs=more)
    process.start()
    theirs.close()
    started = Publisher(process, ours)
    try:
        if not ours.poll(START_TIMEOUT_S):
            raise TimeoutError(f"publisher: not started in {START_TIMEOUT_S:g} s")
        ours.recv()
        yield started
    finally:
        process.kill()
        process.join()
        ours.close()


def _publish(
    pipe: Connection, home: Home, staged: tuple[Staged, Staged], first: int, last: int | None, die_at: int | None = None
) -> None:
    steps = Steps()
    versions = [writes(each) for each in staged]
    with suppress(StoreMissingError), Lake(home).reader():  # loads what a first opening loads: the kill is to hit publishing
        pass
    steps.start(die_at or 0)
    pipe.send("ready")
    for number in count(first) if last is None else range(first, last + 1):
        published = publish(Lake(home), versions[number % 2], f"{COHORT_MESSAGE} {COHORT}")
        steps.take("acknowledge")
        pipe.send((number, published.snapshot_id))
    if die_at is not None:
        pipe.send((-1, steps.commit))
        pipe.send((-1, steps.taken))


class Steps:
    """Counts the statements given to DuckDB in this process and dies, as by SIGKILL from outside, before the one asked for."""

    def __init__(self) -> None:
        self.taken = 0
        self.commit = 0
        self._die_at = 0
        connect = duckdb.connect
        duckdb.connect = lambda *args, **kwargs: _Counted(connect(*args, **kwargs), self)  # type: ignore[assignment]

    def start(self, die_at: int) -> None:
        """Count from here on; with 0 to no end."""
        self.taken, self._die_at = 0, die_at

    def take(self, statement: object) -> None:
        """Count one step."""
        self.taken += 1
        if self.taken == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if statement == "COMMIT":
            self.commit = self.taken


class _Counted:
    """A connection that counts its statements."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, steps: Steps) -> None:
        self._connection = connection
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def cursor(self) -> "_Counted":
        return _Counted(self._connection.cursor(), self._steps)

    def execute(self, statement: Any, *args: Any, **kwargs: Any) -> duckdb.DuckDBPyConnection:
        self._steps.take(statement)
        return self._connection.execute(statement, *args, **kwargs)
