"""A publisher in a process of its own, to be killed by test_publish.py: at a named step of publishing, or from outside."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from feature_store import publish as publishing
from feature_store.home import Home
from feature_store.ingest.stage import Staged
from feature_store.lake import Lake


def dies_at(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """Return the function, but its `call`-th call is the end of the process, as by SIGKILL from outside."""
    calls = iter(range(1, 1_000))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return deadly


def run(ready: Connection, home: Path, versions: list[Staged], cohorts: list[str], kill_at: tuple[str, int] | None) -> None:
    """Publish every cohort of every staged contract in turn; `kill_at`: a function of the module or the lake, and which call."""
    if kill_at is not None:
        step, call = kill_at
        owner = publishing if hasattr(publishing, step) else Lake
        setattr(owner, step, dies_at(getattr(owner, step), call))
    ready.send("ready")
    for staged in versions:
        for cohort in cohorts:
            publishing.publish_cohort(Lake(Home(home)), staged, cohort)
