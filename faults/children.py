"""Doing one thing in a process of its own: what it answered, how long it took, how much memory beyond a warm process.

What belongs here: asking a child that may die, hang or eat memory. What is asked is the rows' business.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

PROCESSES = multiprocessing.get_context("forkserver")
MOST_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What a child said: a text, seconds and megabytes; `has_ended` where it died before it could, or was waited for too long."""

    text: str
    seconds: float = 0.0
    took_mb: float = 0.0
    has_ended: bool = False


def answered(call: Callable[..., str], *arguments: object) -> Answer:
    """Return what `call(*arguments)` returns in a process of its own; both must be what pickle can carry."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_tell, args=(theirs, call, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(MOST_S) else Answer("no answer in time", MOST_S, has_ended=True)
    except EOFError:
        process.join()
        return Answer(f"the process ended with {process.exitcode}", has_ended=True)
    finally:
        process.kill()
        process.join()
        ours.close()


def _tell(pipe: Connection, call: Callable[..., str], arguments: tuple[object, ...]) -> None:
    before, start = most_mb(), time.perf_counter()
    text = call(*arguments)
    seconds = time.perf_counter() - start
    pipe.send(Answer(text, seconds, most_mb() - before))


def most_mb() -> float:
    """Return the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
