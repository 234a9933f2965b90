"""Rows 9 and 10: a case erased from a store of 10,000 and looked for by scan.py; and ingested again.

What is looked for: the case and its slides, a stretch of its report, and its expression and patch values.
"""

import hashlib
import struct
import time
from pathlib import Path

import polars as pl

from faults.cohorts import COHORT, published_home, small_contract
from faults.report import Found, Trial, say
from faults.scan import Traces, hits
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.erase import erase_case
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import Write, publish, publish_cohort
from feature_store.tables import PREDICTIONS, REPORTS
from feature_store.verify import verify

MOST_S = 60.0
NUM_VALUES = 8  # so many numbers in a row are one case's alone


def erased_case(trial: Trial) -> Found:
    """Row 9, and row 10: the same landing afterwards."""
    num_cases = trial.pick(60, 9_999)
    home, landing = published_home(trial.folder, num_cases, mean_patches=20)
    say(f"row 9: {num_cases:,} cases are published")
    case_id = _case_with_everything(home)
    traces = _traces(home, case_id)
    _leave_traces(home, case_id)
    found = Found({"cases": num_cases, "erase_hits": 0, "bags_changed": 0, "hits_after_reingest": 0})
    before, found_before = _bag_hashes(home), hits(home.root, traces)
    places = {hit.partition(":")[0].split("/")[0] for hit in found_before}
    found.counts["hits_before"] = len(found_before)
    found.expect({"store", "staging", "dagster"} <= places, f"before the erasure the case is only found in {sorted(places)}")
    start = time.perf_counter()
    erase_case(home, case_id)
    seconds = time.perf_counter() - start
    left = hits(home.root, traces)
    after = _bag_hashes(home)
    others = {bag: digest for bag, digest in before.items() if bag[0] != case_id}
    changed = [bag for bag in others if others[bag] != after.get(bag)] + [bag for bag in after if bag not in others]
    found.counts |= {
        "erase_hits": len(left),
        "bags_changed": len(changed),
        "other_bags": len(others),
        "erase_s": round(seconds, 1),
    }
    found.expect(not left, f"after the erasure the case is found in {left[:5]}")
    found.expect(not changed, f"bags of other cases changed: {changed[:3]}")
    found.expect(trial.is_quick or seconds < MOST_S, f"it took {seconds:.0f} s, expected under {MOST_S:g}")
    problems = verify(home).problems
    found.expect(not problems, f"verify finds {[str(problem) for problem in problems[:2]]}")
    _ingest_again(home, landing, case_id, traces, found)
    return found


def _ingest_again(home: Home, landing: Path, case_id: str, traces: Traces, found: Found) -> None:
    try:
        publish_cohort(Lake(home), stage(small_contract(), landing, home), COHORT)
        found.counts["reingest"] = "the others only"
    except MiceError as error:
        found.counts["reingest"] = f"refused as a whole ({type(error).__name__})"
    with Lake(home).reader() as connection:
        num_rows = connection.execute("SELECT count(*) FROM cases WHERE case_id = ?", [case_id]).fetchone()
    found.expect(num_rows == (0,), "the erased case is published again")
    left = hits(home.root, traces)
    found.counts["hits_after_reingest"] = len(left)
    found.expect(not left, f"after the refused ingest the case is found in {left[:5]}")


def _case_with_everything(home: Home) -> str:
    tables = ("rna", "copy_number", "mutations", "reports", "slides", "patch_bags")
    query = "SELECT min(case_id) FROM cases WHERE " + " AND ".join(f"case_id IN (SELECT case_id FROM {t})" for t in tables)
    with Lake(home).reader() as connection:
        return str(connection.execute(query).fetchall()[0][0])


def _traces(home: Home, case_id: str) -> Traces:
    with Lake(home).reader() as connection:
        slides = [row[0] for row in connection.execute("SELECT slide_id FROM slides WHERE case_id = ?", [case_id]).fetchall()]
        texts = connection.execute("SELECT text FROM reports WHERE case_id = ?", [case_id]).fetchall()
        vector = connection.execute('SELECT "values" FROM rna WHERE case_id = ?', [case_id]).fetchall()[0][0]
        others = connection.execute("SELECT text FROM reports WHERE case_id <> ?", [case_id]).fetchall()
    others_text = "\n".join(row[0] for row in others)
    windows = [text[at : at + 60] for (text,) in texts for at in range(0, max(1, len(text) - 60), 20)]
    own = next(window for window in windows if window not in others_text)
    numbers = [struct.pack(f"<{NUM_VALUES}f", *vector[:NUM_VALUES])]
    with BagReader(home.bags) as reader:
        bags = [bag for bag in _bags(home) if bag.case_id == case_id]
        numbers += [reader.read(bag)[0, :NUM_VALUES].tobytes() for bag in bags]
    return Traces((case_id, *slides, own), tuple(numbers))


def _leave_traces(home: Home, case_id: str) -> None:
    """Add what a store in use has beside one publication: an older snapshot, predictions, and a run in Dagster's storage."""
    with Lake(home).reader() as connection:
        reports = pl.DataFrame(connection.execute("FROM reports").to_arrow_table())
    publish(
        Lake(home), [Write(REPORTS, COHORT, reports.with_columns(num_characters=pl.lit(1)))], "another version of the reports"
    )
    publish(Lake(home), [Write(REPORTS, COHORT, reports)], f"the reports again, looked at because of {case_id}")
    row = {"case_id": case_id, "cohort": COHORT, "model_version": "m", "study": "s", "snapshot_id": 2, "cancer_type": "amber",
           "endpoint": "os", "fold": 0, "risk_score": 1.5, "survival": [0.5], "bin_edges_days": [100.0], "experts": [1.0],
           "missing_modalities": "", "encoders": "", "protocol": "p"}  # fmt: skip
    publish(Lake(home), [Write(PREDICTIONS, "m", PREDICTIONS.conform(pl.DataFrame([row])))], "publish predictions of m")
    _log_in_dagster(home, case_id)


def _log_in_dagster(home: Home, case_id: str) -> None:
    from dagster import DagsterInstance, OpExecutionContext, job, op

    @op
    def look(context: OpExecutionContext) -> None:
        context.log.info("case %s looks odd", case_id)

    @job
    def looking() -> None:
        look()

    home.dagster.mkdir(parents=True, exist_ok=True)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with DagsterInstance.local_temp(str(home.dagster), overrides={"telemetry": {"enabled": False}}) as instance:
        looking.execute_in_process(instance=instance, run_config=quiet, tags={"case": case_id})


def _bags(home: Home) -> list[BagRecord]:
    columns = list(BagRecord.__dataclass_fields__)
    with Lake(home).reader() as connection:
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM patch_bags").fetchall()
    return [BagRecord(**dict(zip(columns, row, strict=True))) for row in rows]


def _bag_hashes(home: Home) -> dict[tuple[str, str], str]:
    """Return (case, slide) -> SHA-256 of the values and places that a reader gets."""
    hashes = {}
    with BagReader(home.bags) as reader:
        for bag in _bags(home):
            digest = hashlib.sha256(reader.read(bag, verify=True).tobytes())
            digest.update(bag.bag_sha256.encode())
            hashes[bag.case_id, bag.slide_id] = digest.hexdigest()
    return hashes
