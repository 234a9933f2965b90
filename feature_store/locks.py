"""Named locks between processes, shared or exclusive, with a bounded wait: files on one machine, PostgreSQL's between several.

What belongs here: taking and releasing. What a lock protects is lake.py's business. A lock dies with the process that holds it.
"""

import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from feature_store.errors import StoreBusyError, StoreWriteError

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 0.02
# Advisory locks are numbers: the first half is ours ("mice"), the second the lock's.
_ADVISORY_SPACE = 0x6D696365
_LOCK_NOT_AVAILABLE = "55P03"

COMMIT = "commit"
READERS = "readers"


def of_snapshot(snapshot_id: int) -> str:
    """Return the name of the lock that every reader of a snapshot shares."""
    return f"snapshot-{snapshot_id:d}"


class FileLocks:
    """flock on a file per name; `commit` is the file of the writers' lock, beside the catalog."""

    def __init__(self, folder: Path, commit: Path) -> None:
        self._folder = folder
        self._commit = commit

    @contextmanager
    def held(self, names: Sequence[str], timeout_s: float, *, is_shared: bool = False) -> Iterator[None]:
        """Hold all `names`, taken in that order. Raises StoreBusyError after `timeout_s`, StoreWriteError without a file."""
        deadline = time.monotonic() + timeout_s
        with ExitStack() as held:
            for name in names:
                path = self._commit if name == COMMIT else self._folder / f"{name}.lock"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except OSError as error:
                    if not is_shared:
                        raise StoreWriteError(
                            f"{path}: cannot be locked ({error}), expected a writable store. Mend the permissions or free space."
                        ) from error
                    # who may only read cannot say that he reads: files he needs stay for the grace that maintenance gives
                    logger.debug("%s: no lock taken (%s)", path, error)
                    continue
                held.callback(os.close, descriptor)
                _wait(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX, path, deadline, timeout_s)
            yield


def _wait(descriptor: int, kind: int, path: Path, deadline: float, timeout_s: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _busy(str(path), timeout_s, "see who holds it with `fuser`") from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return


class AdvisoryLocks:
    """PostgreSQL's advisory locks, held by a session of their own and gone when it ends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def held(self, names: Sequence[str], timeout_s: float, *, is_shared: bool = False) -> Iterator[None]:
        """Hold all locks of `names`, taken in that order. Raises StoreBusyError after `timeout_s` for one of them."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as session:
            session.execute(text(f"SET lock_timeout = {max(1, round(timeout_s * 1000)):d}"))
            for name in names:
                take = text(f"SELECT pg_advisory_lock{'_shared' if is_shared else ''}(:space, :number)")
                try:
                    session.execute(take, {"space": _ADVISORY_SPACE, "number": _number(name)})
                except OperationalError as error:
                    if getattr(error.orig, "pgcode", None) != _LOCK_NOT_AVAILABLE:
                        raise
                    raise _busy(f"{name} lock of the catalog", timeout_s, "see pg_locks for who holds it") from error
            yield


Locks = FileLocks | AdvisoryLocks


def _number(name: str) -> int:
    fixed = {COMMIT: 1, READERS: 2}
    return fixed[name] if name in fixed else 16 + int(name.removeprefix("snapshot-"))


def _busy(which: str, timeout_s: float, how: str) -> StoreBusyError:
    return StoreBusyError(
        f"{which}: held by another process for over {timeout_s:g} s, expected it free. Wait for the other run, or {how}."
    )
