"""Embedding runs that are killed and started again, and slides that are damaged: the rows of slides.py.

What must hold: whatever is kept in the end is what an undisturbed run keeps, bit for bit, and nothing counts as done that is not.
"""

import multiprocessing
import os
import random
import time
from pathlib import Path

from faults.report import Found, Trial, say
from faults.slide_cohorts import contract, write_slides, write_tables
from feature_store.home import Home
from feature_store.ingest.stage import stage
from mice_model.slide_embedding.run import RunConfig, embed_contract

PROCESSES = multiprocessing.get_context("forkserver")
IN_LINE = RunConfig(num_workers=1, num_decoders=0)
# Every so many kills a run has workers of its own, which are to end with it.
EVERY_WITH_WORKERS = 5
_MOST_RUNS = 200


def killed_runs(trial: Trial) -> Found:
    """Kill runs until there were enough kills; where one ends before its kill, go on at a new home."""
    num_kills = trial.times or trial.pick(3, 20)
    landing, reference = trial.folder / "landing", Home(trial.folder / "undisturbed")
    case_ids = [f"S-{number:04}" for number in range(trial.pick(3, 6))]
    write_tables(landing, case_ids)
    write_slides(landing, case_ids)
    start = time.perf_counter()
    embed_contract(contract(), landing, reference, IN_LINE)
    whole_s = time.perf_counter() - start
    expected = _kept(reference, landing)
    found, rng, number = Found({"kills": 0, "homes": 0, "differing": 0, "partial_seen": 0, "orphans": 0}), random.Random(0), 0
    while found.counts["kills"] < num_kills and number < _MOST_RUNS:
        home = Home(trial.folder / f"home-{found.counts['homes']}")
        while not _ends(home, landing, rng.uniform(0, whole_s / 2), number, found):
            _look_for_parts(home, expected, found)
            number += 1
            if found.counts["kills"] >= num_kills:
                embed_contract(contract(), landing, home, IN_LINE)
                break
        number += 1
        differing = {name for name, data in _kept(home, landing).items() ^ expected.items()}
        found.add("homes")
        found.add("differing", len(differing))
        found.expect(not differing, f"home {home.root.name}: {len(differing)} files differ, such as {sorted(differing)[:3]}")
        say(f"{found.counts['kills']} of {num_kills} kills")
    found.expect(found.counts["kills"] == num_kills, f"{found.counts['kills']} kills in {number} runs, expected {num_kills}")
    return found


def _ends(home: Home, landing: Path, kill_after_s: float, number: int, found: Found) -> bool:
    """Run until the end, or for so long and then kill; say whether it ended by itself."""
    has_workers = number % EVERY_WITH_WORKERS == EVERY_WITH_WORKERS - 1
    run = PROCESSES.Process(target=_run, args=(landing, home, has_workers))
    run.start()
    # workers are spawned and import torch first: such a run is killed once they are at work
    run.join(kill_after_s + (_START_S if has_workers else 0))
    if run.exitcode is not None:
        found.expect(run.exitcode == 0, f"run {number}: ended with {run.exitcode}")
        return True
    children = _children(run.pid or 0)
    run.kill()
    run.join()
    found.add("kills")
    time.sleep(_ORPHANS_END_S if children else 0)
    orphans = [pid for pid in children if Path(f"/proc/{pid}/cmdline").is_file() and Path(f"/proc/{pid}/cmdline").read_bytes()]
    found.add("orphans", len(orphans))
    found.expect(not orphans, f"run {number}: {len(orphans)} of its {len(children)} workers outlived it")
    return False


_START_S = 6.0
_ORPHANS_END_S = 1.0


def _run(landing: Path, home: Home, has_workers: bool) -> None:
    embed_contract(contract(), landing, home, RunConfig(num_workers=2, num_decoders=0) if has_workers else IN_LINE)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        return []


def _look_for_parts(home: Home, expected: dict[str, bytes], found: Found) -> None:
    """Hold each slide that counts as done against the undisturbed run's: a killed run must not leave part of one."""
    for manifest in home.embeddings.glob("*/*.json"):
        for path in manifest.parent.glob(f"{manifest.stem}.*"):
            name = f"{path.parent.name}/{path.name}"
            is_whole = path.read_bytes() == expected.get(name)
            found.add("partial_seen", int(not is_whole))
            found.expect(is_whole, f"{name}: counts as done, and is not what the undisturbed run has")


def _kept(home: Home, landing: Path) -> dict[str, bytes]:
    """Return all that is kept of the slides, and the shards that ingest makes of it, by name."""
    stage(contract(), landing, home)
    embedded = (path for path in home.embeddings.glob("*/*") if path.is_file() and not path.name.startswith("."))
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in (*embedded, *home.bags.glob("*.parquet"))}


def spoiled_slides(trial: Trial) -> Found:
    """Cut a slide short and overwrite parts of it at random places: refused, or read as far as it is whole, and nothing dies."""
    rng, found = random.Random(0), Found({"spoiled": 0, "refused": 0, "read": 0})
    landing, home = trial.folder / "landing", Home(trial.folder / "home")
    num = trial.times or trial.pick(6, 60)
    case_ids = [f"S-{number:04}" for number in range(num)]
    write_tables(landing, case_ids)
    write_slides(landing, case_ids[:1])
    whole = (landing / "wsi" / f"{case_ids[0]}.svs").read_bytes()
    for case_id in case_ids[1:]:
        data = bytearray(whole)
        if rng.random() < 0.5:
            del data[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.randrange(1, 200)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        (landing / "wsi" / f"{case_id}.svs").write_bytes(data)
    report = embed_contract(contract(), landing, home, RunConfig(num_workers=os.cpu_count() or 1, num_decoders=0))
    found.counts |= {"spoiled": num - 1, "refused": len(report.refused), "read": len(report.embedded) - 1}
    found.expect(len(report.outcomes) == num, f"{len(report.outcomes)} outcomes of {num} slides")
    found.expect(len(report.embedded) >= 1, "the whole slide was refused too")
    return found
