"""Row 6: a disk that refuses: files that may not grow, a file system that is full, folders that cannot be written.

Each refusal is the operating system's own: a limit on the size of files (RLIMIT_FSIZE), a small tmpfs, a user without permission.
What must hold: a typed error, a store that reads as before, and nothing of the failed write left once the next one succeeds.
"""

import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from faults.cohorts import COHORT, Versions, home_with, small_contract, small_landing, two_versions, visible, writes
from faults.publisher import PROCESSES
from faults.refusals import as_nobody, filled, limited, make_writable_but, nobody_can_come_here, plainly, small_file_system
from faults.report import Found, Trial
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, publish
from feature_store.verify import verify

TIMEOUT_S = 120.0


def refusing_disks(trial: Trial) -> Found:
    """Row 6."""
    versions = two_versions(trial.folder / "versions")
    whole = home_with(versions, trial.folder / "whole")
    found = Found({"refused_writes": 0, "typed": 0, "went_through": 0, "temporaries_left": 0})
    landing = small_landing(trial.folder / "landing")
    for limit in _sizes(trial):
        home = Home(shutil.copytree(whole.root, trial.folder / f"limit-{limit}"))
        which = f"files of at most {limit} bytes"
        _refused(which, home, versions, landing, found, limited, limit)
        _readable(which, home, found)
        _whole(which, home, versions, found)
    with small_file_system(trial.folder / "tmpfs") as mounted:
        if mounted is None:
            found.counts["tmpfs"] = "skipped: mounting is not allowed here"
        else:
            for free in _sizes(trial):
                home = Home(shutil.copytree(whole.root, mounted / "home"))
                which = f"a disk with {free} bytes free"
                with filled(mounted, free):
                    _refused(which, home, versions, landing, found, plainly, None)
                    _readable(which, home, found)
                _whole(which, home, versions, found)
                shutil.rmtree(home.root)
    if nobody_can_come_here():
        for name in trial.pick(["store"], ["store", "store/tables", "store/bags", "staging"]):
            home = Home(shutil.copytree(whole.root, trial.folder / f"read-only-{name.replace('/', '-')}"))
            make_writable_but(home, name)
            which = f"{name} that is read-only"
            _refused(which, home, versions, landing, found, as_nobody, whole.root)
            _readable(which, home, found, as_nobody, whole.root)
            _whole(which, home, versions, found)
    else:
        found.counts["read_only"] = "skipped: not root, or TMPDIR is closed to other users"
    return found


def _sizes(trial: Trial) -> list[int]:
    """Return sizes from nothing to what a publication and an ingest need, so that each write in turn is the one that fails."""
    return trial.pick([0, 20_000], [0, 1, *(round(512 * 1.5**step) for step in range(18))])


def _refused(
    which: str, home: Home, versions: Versions, landing: Path, found: Found, prepare: Callable[[object], None], value: object
) -> None:
    """Publish and ingest in a child for which `prepare(value)` makes the disk refuse."""
    for what, target, argument in (("publish", _publish, versions.staged[1]), ("ingest", _ingest, landing)):
        answer = _in_child(prepare, value, target, home, argument)
        if answer == "done":
            found.add("went_through")
        else:
            found.add("refused_writes")
            found.add("typed", int(answer.startswith("typed")))
            found.expect(answer.startswith("typed"), f"{what} with {which}: {answer}")


def _readable(which: str, home: Home, found: Found, prepare: Callable[[object], None] = plainly, value: object = None) -> None:
    """Read everything while the disk refuses: a limit is the writing process's own, the rest hits readers as well."""
    answer = _in_child(prepare, value, _read, home)
    found.add("reads_meanwhile")
    found.add("read_meanwhile", int(answer == "done"))
    found.expect(answer == "done", f"reading with {which}: {answer}")


def _whole(which: str, home: Home, versions: Versions, found: Found) -> None:
    """Look at the store once the disk takes writes again: whole, without leftovers, and publishing goes through."""
    version = versions.which(visible(home))
    found.expect(version is not None, f"{which}: the tables are of no one version")
    left = [str(path.relative_to(home.root)) for path in home.root.rglob("*") if path.name.startswith(".") or ".tmp" in path.name]
    found.add("temporaries_left", len(left))
    found.expect(not left, f"{which}: left {left[:3]}")
    _publish(home, versions.staged[1])
    problems = [str(problem) for problem in verify(home).problems]
    is_whole = version is not None and versions.which(visible(home)) == 1 and not problems
    found.add("whole_afterwards", int(is_whole))
    found.expect(is_whole, f"{which}: verify finds {problems[:2]}")


def _publish(home: Home, staged: Staged) -> None:
    publish(Lake(home), writes(staged), f"{COHORT_MESSAGE} {COHORT}")


def _ingest(home: Home, landing: Path) -> None:
    stage(small_contract(), landing, home)


def _read(home: Home) -> None:
    visible(home)


def _in_child(prepare: Callable[[object], None], value: object, target: Callable[..., None], *arguments: object) -> str:
    """Return "done", "typed ..." or "untyped ...", as the child tells it."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_told, args=(theirs, prepare, value, target, *arguments))
    process.start()
    theirs.close()
    try:
        return str(ours.recv()) if ours.poll(TIMEOUT_S) else "untyped: no answer in time"
    except EOFError:
        process.join()
        return f"untyped: the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _told(
    pipe: Connection, prepare: Callable[[object], None], value: object, target: Callable[..., None], *arguments: object
) -> None:
    prepare(value)
    try:
        target(*arguments)
    except MiceError as error:
        pipe.send(f"typed {type(error).__name__}: {error}")
    except BaseException as error:  # noqa: BLE001 - it goes to the parent, which judges it
        pipe.send(f"untyped {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    else:
        pipe.send("done")
