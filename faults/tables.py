"""Rows 14 and 15: outcomes and identifiers as clinics write them. Declared ones are mapped, all others are rejected by name.

Each trial changes the sound landing folder of a small cohort and says what must become of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from faults.cohorts import COHORT, small_contract, small_landing
from faults.report import Found, Trial
from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.errors import AuditError, MiceError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from mice_model.metrics import concordance_index

MONTH_DAYS = 30.44
MOST_REJECTED = 0.2
Edit = Callable[[pl.DataFrame], pl.DataFrame]
Looked = Callable[[Staged, Staged], bool]


@dataclass(frozen=True)
class Change:
    """A change to clinical.csv and to the contract, and what must follow.

    `rejects`: how many rows of `table` go to quarantine for a reason that has `reason` in it. `error`: publishing raises it.
    `looks`: what must be true of the staged cohort and of the sound one.
    """

    name: str
    edit: Edit
    contract: dict[str, Any] = field(default_factory=dict)
    rejects: int = 0
    table: str = "endpoints"
    reason: str = ""
    error: type[MiceError] | None = None
    looks: Looked | None = None


def outcomes(trial: Trial) -> Found:
    """Row 14."""
    dead_alive = {"0": "Alive", "1": "Dead"}
    changes = (
        Change("times of 0 and below", _set("OS.time", "0", "-5"), rejects=2, reason="not a positive number"),
        Change("NaN, infinite, words", _set("OS.time", "NaN", "inf", "long"), rejects=3, reason="not a positive number"),
        Change("an event of 2 among 0 and 1", _set("OS", "2"), rejects=1, reason="event code is none of"),
        Change("1 and 2, declared", _mapped({"0": "1", "1": "2"}), _events({"1": False, "2": True}), looks=_equal),
        Change("1 and 2, not declared", _mapped({"0": "1", "1": "2"}), error=AuditError),
        Change("Dead and Alive, declared", _mapped(dead_alive), _events({"Alive": False, "Dead": True}), looks=_equal),
        Change("Dead and Alive, not declared", _mapped(dead_alive), error=AuditError),
        Change(
            "0:LIVING and 1:DECEASED",
            _mapped({"0": "0:LIVING", "1": "1:DECEASED"}),
            _events({"0:LIVING": False, "1:DECEASED": True}),
            looks=_equal,
        ),
        Change("months, declared", _scaled("OS.time", 1 / MONTH_DAYS), _unit("months"), looks=_equal),
        Change("all censored", _mapped({"1": "0"}, "OS", "PFI"), error=AuditError),
    )
    found = _tried(trial, changes)
    times = np.array([10.0, 20.0, 30.0])
    undefined = concordance_index(times, np.zeros(3, bool), np.array([1.0, 2.0, 3.0]))
    found.expect(math.isnan(undefined), f"the C-index of a fold without an event is {undefined}, expected it undefined")
    return found


def identifiers(trial: Trial) -> Found:
    """Row 15."""
    changes = (
        Change("small letters", _ids(str.lower), looks=_same_cases),
        Change("space around", _ids(lambda name: f"  {name}\t"), looks=_same_cases),
        Change("dashes of a word processor", _ids(lambda name: name.replace("-", "\u2013")), looks=_same_cases),
        Change("a sample's barcode", _ids(lambda name: f"{name}-01A", 3), rejects=3, table="cases", reason="does not match"),
        Change("numbers in place of identifiers", _ids(lambda _: "1", 1), rejects=1, table="cases", reason="does not match"),
        Change("no identifier", _ids(lambda _: "", 2), rejects=2, table="cases", reason="does not match"),
        Change(
            "the same row twice", _twice({}), rejects=1, table="cases", reason="equal to a row that was kept", looks=_same_cases
        ),
        Change("two rows that contradict", _twice({"gender": "OTHER"}), rejects=2, table="cases", reason="contradict"),
        Change("001 is not 1", _numbered, _pattern("[0-9]{3}"), error=AuditError, looks=_keeps_zeros),
    )
    return _tried(trial, changes)


def _tried(trial: Trial, changes: tuple[Change, ...]) -> Found:
    found = Found({"changes": len(changes), "as_declared": 0, "untyped": 0})
    sound = small_landing(trial.folder / "sound", num_cases=40)
    reference = stage(small_contract(max_quarantined_fraction=MOST_REJECTED), sound, Home(trial.folder / "reference"))
    for number, change in enumerate(changes):
        folder = trial.folder / str(number)
        landing = small_landing(folder / "landing", num_cases=40)
        clinical = landing / "clinical.csv"
        change.edit(pl.read_csv(clinical, infer_schema=False)).write_csv(clinical)
        contract = _with(small_contract(max_quarantined_fraction=MOST_REJECTED), change.contract)
        try:
            problem = _outcome(change, contract, landing, Home(folder / "home"), reference, is_published=not trial.is_quick)
        except MiceError as error:
            problem = "" if change.error and isinstance(error, change.error) else f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - what is looked for
            found.add("untyped")
            problem = f"{type(error).__name__}: {error}"
        found.add("as_declared", int(not problem))
        found.expect(not problem, f"{change.name}: {problem[:300]}")
    return found


def _outcome(change: Change, contract: Contract, landing: Path, home: Home, reference: Staged, *, is_published: bool) -> str:
    """Stage and publish, or only audit what would be published; return what is not as the change says, or nothing."""
    staged = stage(contract, landing, home)
    quarantine = staged.table("quarantine").filter(pl.col("table_name") == change.table)
    rejected = quarantine.filter(pl.col("reason").str.contains(change.reason, literal=True)).height if change.reason else 0
    if rejected != change.rejects:
        return f"{rejected} rows of {change.table} rejected for {change.reason!r}, expected {change.rejects}"
    if change.looks is not None and not change.looks(staged, reference):
        return "the staged rows are others than expected"
    if is_published:
        publish_cohort(Lake(home), staged, COHORT)
    elif failed := [check.found for check in audit(staged, COHORT) if not check.is_passed]:
        raise AuditError("; ".join(failed))
    return f"published, expected {change.error.__name__}" if change.error else ""


def _with(contract: Contract, changes: dict[str, Any]) -> Contract:
    """Return the contract with some of its keys given anew, as a file would give them."""
    raw = contract.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for path, value in changes.items():
        *keys, last = path.split("/")
        part = raw
        for key in keys:
            part = part[key]
        part[last] = value
    return Contract.model_validate(raw)


def _events(codes: dict[str, bool]) -> dict[str, Any]:
    return {"endpoints/endpoints/os/events": codes}


def _unit(unit: str) -> dict[str, Any]:
    return {"endpoints/endpoints/os/unit": unit}


def _pattern(pattern: str) -> dict[str, Any]:
    random = {"kind": "random", "name": "folds", "seed": 0}
    return {"case_id/pattern": pattern, "cases/site": None, "splits": [random]}


def _set(column: str, *values: str) -> Edit:
    return lambda frame: frame.with_columns(pl.Series(column, [*values, *frame[column][len(values) :]]))


def _mapped(codes: dict[str, str], *columns: str) -> Edit:
    return lambda frame: frame.with_columns(pl.col(columns or ("OS",)).replace(codes))


def _scaled(column: str, by: float) -> Edit:
    return lambda frame: frame.with_columns((pl.col(column).cast(pl.Float64) * by).cast(pl.String))


def _ids(edit: Callable[[str], str], num_rows: int | None = None) -> Edit:
    def changed(frame: pl.DataFrame) -> pl.DataFrame:
        ids = frame["case_id"].to_list()
        count = len(ids) if num_rows is None else num_rows
        return frame.with_columns(pl.Series("case_id", [*map(edit, ids[:count]), *ids[count:]]))

    return changed


def _twice(values: dict[str, str]) -> Edit:
    return lambda frame: pl.concat([frame, frame.head(1).with_columns(**{name: pl.lit(text) for name, text in values.items()})])


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.Series("case_id", [f"{number:03}" for number in range(1, frame.height + 1)]))


def _equal(staged: Staged, reference: Staged) -> bool:
    columns = ["case_id", "endpoint", "event_observed"]
    found, expected = (each.table("endpoints").sort(columns[:2]) for each in (staged, reference))
    is_close = np.allclose(found["duration_days"].to_numpy(), expected["duration_days"].to_numpy(), rtol=1e-9)
    return found.select(columns).equals(expected.select(columns)) and is_close


def _same_cases(staged: Staged, reference: Staged) -> bool:
    return set(staged.table("cases")["case_id"]) == set(reference.table("cases")["case_id"])


def _keeps_zeros(staged: Staged, _reference: Staged) -> bool:
    return staged.table("cases")["case_id"].sort().head(2).to_list() == ["001", "002"]
