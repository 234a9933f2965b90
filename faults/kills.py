"""Rows 1, 2 and 4: a publisher that is killed: at random moments, before each statement, and after its commit but unheard.

What must hold: whoever opens the store next sees, in every table, the last acknowledged publication or one newer whole one.
"""

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from faults.cohorts import COHORT, Versions, two_versions, visible, writes
from faults.publisher import Publisher, publisher
from faults.report import Found, Trial, say
from feature_store.errors import StoreMissingError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, publish

NUM_LANES = 2
KILLS_PER_HOME = 10
MAX_REOPEN_S = 1.0


@dataclass(frozen=True)
class State:
    """What a store shows: publication number `number` (its version is number % 2; 0 where nothing was published)."""

    number: int
    newest: int


def killed_at_random(trial: Trial) -> Found:
    """Row 1. Every tenth kill falls on a new home, where the first publication also makes the catalog and the tables."""
    num_kills = trial.times or trial.pick(2, 200)
    versions = two_versions(trial.folder / "versions")
    lanes = [num_kills // NUM_LANES + (lane < num_kills % NUM_LANES) for lane in range(NUM_LANES)]
    found = Found({"kills": num_kills, "acknowledged": 0, "acknowledged_lost": 0, "torn": 0, "whole_but_unacknowledged": 0})
    reopen_s: list[float] = []
    with ThreadPoolExecutor(NUM_LANES) as pool:
        runs = [pool.submit(_lane, trial.folder / f"lane-{i}", n, versions, i) for i, n in enumerate(lanes)]
        for run in runs:
            part, times = run.result()
            reopen_s += times
            found.problems += part.problems
            for name, value in part.counts.items():
                found.add(name, float(value) if isinstance(value, float) else int(value))
    found.counts |= {"median_reopen_s": round(statistics.median(reopen_s), 3), "slowest_reopen_s": round(max(reopen_s), 3)}
    is_soon = trial.is_quick or max(reopen_s) < MAX_REOPEN_S
    found.expect(is_soon, f"reopening took up to {max(reopen_s):.2f} s, expected under {MAX_REOPEN_S:g} s")
    return found


def _seconds_of_publications(home: Home, versions: Versions) -> tuple[float, float]:
    """Return how long two publications of a process take: on a new home, whose catalog the first makes, and on one in use."""
    times = []
    for first in (1, 3):
        with publisher(home, versions.staged, first) as child:
            start = time.perf_counter()
            child.wait(2)
            times.append(time.perf_counter() - start)
    return times[0], times[1]


def _lane(folder: Path, num_kills: int, versions: Versions, seed: int) -> tuple[Found, list[float]]:
    """Kill so many publishers, one after the other, while another lane does the same at its homes."""
    found, reopen_s, rng = Found(), [], random.Random(seed)
    new_s, used_s = _seconds_of_publications(Home(folder / "timed"), versions)
    home, state = Home(folder), State(0, 0)
    for turn in range(num_kills):
        if turn % KILLS_PER_HOME == 0:
            home, state = Home(folder / str(turn)), State(0, 0)
            acknowledged: list[tuple[int, int | None]] = []
        with publisher(home, versions.staged, state.number + 1) as child:
            time.sleep(rng.uniform(0, used_s if state.number else new_s))  # each moment of two publications
            child.kill()
        acknowledged += child.acknowledged
        found.add("acknowledged", len(child.acknowledged))
        start = time.perf_counter()
        try:
            with Lake(home).reader() as connection:
                connection.execute("SELECT count(*) FROM publications").fetchall()
        except StoreMissingError:  # killed before the tables were made
            found.expect(not acknowledged, f"kill {turn}: no store, though {len(acknowledged)} publications were acknowledged")
            continue
        reopen_s.append(time.perf_counter() - start)
        state = _checked(home, versions, state, child, found, f"lane {seed}, kill {turn}")
        kept = {snapshot.snapshot_id for snapshot in Lake(home).snapshots()}
        lost = [number for number, snapshot_id in acknowledged if snapshot_id not in kept]
        found.add("acknowledged_lost", len(lost))
        found.expect(not lost, f"lane {seed}, kill {turn}: acknowledged publications {lost[:5]} are no snapshots")
        if turn % 20 == 19:
            say(f"row 1, lane {seed}: {turn + 1} of {num_kills} kills")
    return found, reopen_s


def _checked(home: Home, versions: Versions, before: State, child: Publisher, found: Found, which: str) -> State:
    """Hold what the store shows against what was acknowledged, and return it."""
    newest, contents = Lake(home).snapshots()[-1].snapshot_id, visible(home)
    last = State(child.acknowledged[-1][0], child.acknowledged[-1][1] or 0) if child.acknowledged else before
    version = versions.which(contents)
    is_empty = last.number == 0 and contents == versions.empty
    found.add("torn", int(version is None and not is_empty))
    found.expect(version is not None or is_empty, f"{which}: the tables are of no one version")
    if version is None:
        return State(last.number, newest)
    number = last.number if version == last.number % 2 and last.number else last.number + 1
    is_lost = number == last.number + 1 and newest <= last.newest  # the version before the acknowledged one
    found.add("acknowledged_lost", int(is_lost))
    found.expect(not is_lost, f"{which}: snapshot {newest} shows what was there before acknowledged publication {last.number}")
    found.add("whole_but_unacknowledged", int(number > last.number and not is_lost))
    return State(number, newest)


def killed_at_each_step(trial: Trial) -> Found:
    """Row 2. The steps are the statements given to DuckDB, and the acknowledgement."""
    versions = two_versions(trial.folder / "versions")
    home = Home(trial.folder / "home")
    found = Found({"kills": 0, "old": 0, "new": 0, "torn": 0})
    with publisher(home, versions.staged, 1, 1) as child:
        child.join()
    with publisher(home, versions.staged, 2, 2, die_at=0) as child:
        child.join()
    (_, commit), (_, num_steps) = child.acknowledged[-2:]
    shown = 0
    steps = range(1, int(num_steps or 0) + 1)
    chosen = sorted({*steps[:: trial.pick(40, 1)], int(commit or 0), int(commit or 0) + 1, steps[-1]})
    for done, step in enumerate(chosen):
        with publisher(home, versions.staged, shown + 1, shown + 1, die_at=step) as child:
            child.join()
        found.expect(not child.acknowledged, f"step {step}: not killed")
        version = versions.which(visible(home))
        is_new = version == (shown + 1) % 2
        found.add("kills")
        found.add("torn" if version is None else "new" if is_new else "old")
        found.expect(version is not None, f"step {step}: the tables are of no one version")
        found.expect(is_new == (step > int(commit or 0)), f"step {step} of {num_steps}: version {version} is visible")
        shown = shown if version is None else version
        if done % 20 == 19:
            say(f"row 2: {done + 1} of {len(chosen)} steps")
    found.counts |= {"steps": len(steps), "commit_is_step": int(commit or 0)}
    return found


def unheard_acknowledgements(trial: Trial) -> Found:
    """Row 4. Killed between commit and acknowledgement; then two clients retry at the same time, and this process once more."""
    versions = two_versions(trial.folder / "versions")
    home = Home(trial.folder / "home")
    found = Found({"lost_acknowledgements": 0, "retries": 0, "duplicates": 0})
    with publisher(home, versions.staged, 1, 1) as child:
        child.join()
    with publisher(home, versions.staged, 2, 2, die_at=0) as child:
        child.join()
    num_steps = int(child.acknowledged[-1][1] or 0)
    for number in range(3, 3 + trial.pick(1, 20)):
        with publisher(home, versions.staged, number, number, die_at=num_steps) as child:
            child.join()
        found.expect(not child.acknowledged, f"publication {number}: acknowledged, expected its end before that")
        found.add("lost_acknowledgements")
        before = [snapshot.snapshot_id for snapshot in Lake(home).snapshots()]
        with (
            publisher(home, versions.staged, number, number) as one,
            publisher(home, versions.staged, number, number) as other,
        ):
            answers = [one.join(), other.join(), *one.acknowledged, *other.acknowledged]
        found.expect(answers == [0, 0, (number, None), (number, None)], f"publication {number}: retries answered {answers}")
        again = publish(Lake(home), writes(versions.staged[number % 2]), f"{COHORT_MESSAGE} {COHORT}")
        found.add("retries", 3)
        after = [snapshot.snapshot_id for snapshot in Lake(home).snapshots()]
        found.add("duplicates", len(after) - len(before))
        found.expect(
            after == before and not again.changed, f"publication {number}: retries made snapshots {after[len(before) :]}"
        )
        found.expect(versions.which(visible(home)) == number % 2, f"publication {number}: other rows than those sent")
    return found
