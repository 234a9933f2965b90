"""Many files at once: what is there already, which travel together, a few connections, and what became of each file.

What belongs here: the threads and the tally. How one file arrives is transfer.py's business, an archive of several is batch.py's.
The threads are daemons: a program that is interrupted ends at once, and what each has written by then is there to go on with.
"""

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feature_store.errors import DownloadError, DownloadStoppedError, GdcUnavailableError, MiceError
from feature_store.gdc.batch import batches, fetch_together
from feature_store.gdc.http import Http
from feature_store.gdc.manifest import RemoteFile
from feature_store.gdc.progress import DownloadProgress
from feature_store.gdc.transfer import OnBytes, fetch, is_whole

# So many files in a row that could not be had for want of an answer, or of room, mean that the others cannot either.
_MAX_FAILURES_IN_A_ROW = 8
_SECONDS_TO_STOP = 2.0


@dataclass(frozen=True)
class Failure:
    """A file that is not there, and why."""

    file: RemoteFile
    reason: str


@dataclass
class Downloaded:
    """What became of each file: fetched now, kept because it was whole already, or failed."""

    fetched: list[RemoteFile] = field(default_factory=list)
    kept: list[RemoteFile] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class _Outcome:
    file: RemoteFile
    is_kept: bool = False
    error: MiceError | OSError | None = None


def download(http: Http, files: Sequence[RemoteFile], folder: Path) -> Downloaded:
    """Make every one of `files` lie whole and verified at its path below `folder`, fetching what does not.

    A failed file does not stop the others, unless many fail in a row. Raises DownloadError if there is no room for all; an
    interruption stops all threads.
    """
    _require_room(files, folder)
    jobs: queue.SimpleQueue[list[RemoteFile]] = queue.SimpleQueue()
    outcomes: queue.SimpleQueue[_Outcome | Exception] = queue.SimpleQueue()
    for job in batches(files):
        jobs.put(job)
    progress = DownloadProgress(len(files), sum(file.num_bytes for file in files))

    def work() -> None:
        try:
            while True:
                for outcome in _outcomes(http, jobs.get_nowait(), folder, progress.add_bytes):
                    outcomes.put(outcome)
        except queue.Empty:
            return
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            outcomes.put(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(http.num_connections)]
    try:
        for worker in workers:
            worker.start()
        done = _tallied(http, len(files), outcomes, progress)
    except BaseException:
        http.stop.set()
        raise
    finally:
        for worker in workers:
            worker.join(_SECONDS_TO_STOP)
        progress.close()
    http.stop.clear()
    return done


def _require_room(files: Sequence[RemoteFile], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(file.num_bytes for file in files if not (folder / file.path).exists())
    stat = os.statvfs(folder)
    if (free := stat.f_bavail * stat.f_frsize) < needed:
        raise DownloadError(f"folder {folder}: {free:,} bytes free, expected {needed:,}. Free some, or ask for less.")


def _tallied(
    http: Http, num_files: int, outcomes: "queue.SimpleQueue[_Outcome | Exception]", progress: DownloadProgress
) -> Downloaded:
    done, num_in_a_row = Downloaded(), 0
    for _ in range(num_files):
        outcome = outcomes.get()
        if isinstance(outcome, Exception):
            raise outcome
        progress.add_file()
        if outcome.error is None:
            (done.kept if outcome.is_kept else done.fetched).append(outcome.file)
            num_in_a_row = 0
            continue
        done.failed.append(Failure(outcome.file, str(outcome.error)))
        num_in_a_row += isinstance(outcome.error, GdcUnavailableError | OSError)
        if num_in_a_row == _MAX_FAILURES_IN_A_ROW:
            http.stop.set()
    return done


def _outcomes(http: Http, files: Sequence[RemoteFile], folder: Path, on_bytes: OnBytes) -> Iterator[_Outcome]:
    """Yield what became of each file of a job."""
    missing = {}
    for file in files:
        if _is_there(folder, file):
            on_bytes(file.num_bytes)
            yield _Outcome(file, is_kept=True)
        else:
            missing[file.file_id] = file
    if len(missing) > 1 and not http.stop.is_set():
        for file in fetch_together(http, list(missing.values()), folder, on_bytes):
            del missing[file.file_id]
            yield _Outcome(file)
    for file in missing.values():
        yield _Outcome(file, error=_failure(http, file, folder, on_bytes))


def _is_there(folder: Path, file: RemoteFile) -> bool:
    try:
        return is_whole(folder / file.path, file)
    except OSError:
        return False  # fetching it will say what is wrong


def _failure(http: Http, file: RemoteFile, folder: Path, on_bytes: OnBytes) -> MiceError | OSError | None:
    if http.stop.is_set():
        return DownloadStoppedError(f"not tried: {_MAX_FAILURES_IN_A_ROW} files in a row had failed")
    try:
        fetch(http, file, folder / file.path, on_bytes)
    except (MiceError, OSError) as error:
        return error
    return None
