"""Rows 3 and 5: several processes at one store: writers only; and writers, maintenance and readers together."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

import polars as pl

from faults.cohorts import contents_of, two_versions
from faults.postgres import postgres_homes
from faults.publisher import PROCESSES, publisher
from faults.report import Found, Trial, say
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.maintenance import maintain
from feature_store.tables import CASES, FOLDS

DEADLOCK_S = 900.0
MOST_ROUNDS_S = 600.0
MAINTENANCE_PAUSE_S = 1.0  # while it waits for readers it keeps writers out: without a pause they would hardly get in


def many_writers(trial: Trial) -> Found:
    """Row 3: each writer commits a row to two tables at a time, on the SQLite catalog and on PostgreSQL."""
    found = Found({"acknowledged_lost": 0, "torn": 0, "duplicates": 0})
    with postgres_homes(trial.folder / "postgres") as postgres:
        for kind, home in {"sqlite": Home(trial.folder / "sqlite"), **postgres}.items():
            start = time.perf_counter()
            _write_together(home, kind, *trial.pick((3, 2), (8, 50)), found)
            found.counts[f"{kind}_s"] = round(time.perf_counter() - start, 1)
        if not postgres:
            found.counts["postgres"] = "skipped: no server programs here"
    return found


def _write_together(home: Home, kind: str, num_writers: int, num_commits: int, found: Found) -> None:
    processes = [_started(_commit, home, writer, num_commits) for writer in range(num_writers)]
    deadline = time.monotonic() + DEADLOCK_S
    acknowledged = []
    for process, pipe in processes:
        while pipe.poll(max(0.0, deadline - time.monotonic())):
            try:
                acknowledged.append(pipe.recv())
            except EOFError:
                break
        process.kill()
        process.join()
    sent = {f"writer-{writer}-{number}" for writer in range(num_writers) for number in range(num_commits)}
    found.expect(set(acknowledged) == sent, f"{kind}: {len(acknowledged)} of {len(sent)} commits were acknowledged in time")
    with Lake(home).reader() as connection:
        cases, folds = (
            Counter(row[0] for row in connection.execute(f'SELECT case_id FROM "{table}"').fetchall())
            for table in ("cases", "folds")
        )
    commits = Counter(s.key for s in Lake(home).snapshots() if s.key.startswith("writer-"))
    lost = [key for key in acknowledged if not cases[key] or not commits[key]]
    twice = [key for key in sent if max(cases[key], folds[key], commits[key]) > 1]
    torn = [key for key in sent if cases[key] != folds[key]]
    for name, bad in (("acknowledged_lost", lost), ("duplicates", twice), ("torn", torn)):
        found.add(name, len(bad))
        found.expect(not bad, f"{kind}: {name} {sorted(bad)[:5]}")
    found.counts[f"{kind}_commits"] = sum(commits.values())


def _commit(pipe: Connection, home: Home, writer: int, num_commits: int) -> None:
    for number in range(num_commits):
        key = f"writer-{writer}-{number}"
        case = dict.fromkeys(CASES.schema, key)
        fold = {"case_id": key, "cohort": key, "split": key, "fold": number}
        with Lake(home, lock_timeout_s=DEADLOCK_S).transaction("write together", key) as transaction:
            for table, row in ((CASES, case), (FOLDS, fold)):
                transaction.connection.register("row", table.conform(pl.DataFrame([row])).to_arrow())
                transaction.connection.execute(f'INSERT INTO "{table.name}" BY NAME FROM "row"')
                transaction.connection.unregister("row")
        pipe.send(key)


def readers_among_writers(trial: Trial) -> Found:
    """Row 5: a round is one reader's connection, in which everything is read twice while a writer and maintenance go on."""
    versions = two_versions(trial.folder / "versions")
    home = Home(trial.folder / "home")
    found = Found({"rounds": 0, "torn": 0, "changed_while_reading": 0})
    seen: set[int | None] = set()
    rng = random.Random(0)
    with publisher(home, versions.staged, 1) as writer:
        writer.wait()
        with _running(_maintain, home) as (maintenance, rounds):
            found.expect(rounds.poll(60), "no maintenance run ended within a minute")
            deadline = time.monotonic() + MOST_ROUNDS_S
            for turn in count():
                is_enough = turn >= trial.pick(4, 100) and len(seen) > 1
                if is_enough or time.monotonic() > deadline:
                    break
                with Lake(home).reader() as connection:
                    first = contents_of(connection)
                    time.sleep(rng.uniform(0, 0.5))  # commits and maintenance fall between the two readings
                    second = contents_of(connection)
                time.sleep(rng.uniform(0, 0.2))  # files are removed only while nobody reads
                seen.add(versions.which(first))
                found.add("rounds")
                found.add("torn", int(versions.which(first) is None))
                found.add("changed_while_reading", int(first != second))
                found.expect(versions.which(first) is not None, f"round {turn}: the tables are of no one version")
                found.expect(first == second, f"round {turn}: the second reading differs from the first")
                found.expect(maintenance.is_alive(), f"round {turn}: maintenance has ended with {maintenance.exitcode}")
                if turn % 20 == 19:
                    say(f"row 5: {turn + 1} rounds")
            with suppress(EOFError):
                while rounds.poll():
                    found.add("maintenance_runs")
                    for name, number in zip(("expired_snapshots", "removed_files"), rounds.recv(), strict=True):
                        found.add(name, number)
        found.expect(writer.process.is_alive(), f"the writer has ended with {writer.process.exitcode}")
        writer.kill()
    found.counts["publications"] = len(writer.acknowledged)
    is_removed = trial.is_quick or bool(found.counts.get("removed_files"))
    found.expect(is_removed, "maintenance removed no file: readers were not put at risk")
    found.expect(len(seen) > 1, "every reader saw the same version: the writer did not write")
    return found


def _maintain(pipe: Connection, home: Home) -> None:
    while True:  # the harshest there is: nothing is kept but the newest snapshot and what somebody is reading
        done = maintain(home, keep_days=0, grace_s=0)
        pipe.send((len(done.expired), len(done.removed_table_files)))
        time.sleep(MAINTENANCE_PAUSE_S)


@contextmanager
def _running(target: Callable[..., None], *arguments: object) -> Iterator[tuple[ForkServerProcess, Connection]]:
    process, pipe = _started(target, *arguments)
    try:
        yield process, pipe
    finally:
        process.kill()
        process.join()


def _started(target: Callable[..., None], *arguments: object) -> tuple[ForkServerProcess, Connection]:
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=target, args=(theirs, *arguments))
    process.start()
    theirs.close()
    return process, ours
