"""Checks of a staged cohort, between writing and publishing. A failed check keeps the cohort from being published.

What belongs here: what must be true of any cohort's tables, from their declarations. What one source may look like is ingest/.
"""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from feature_store.ingest.stage import Staged
from feature_store.tables import COHORT_TABLES, Table


@dataclass(frozen=True)
class Check:
    """One check's outcome: what was found, in words, with a few offenders at most."""

    name: str
    is_passed: bool
    found: str


def audit(staged: Staged, cohort: str) -> list[Check]:
    """Run every check on one cohort of a staged contract."""
    frames = {table.name: staged.table(table.name, [cohort]) for table in COHORT_TABLES}
    return [check(frames, staged, cohort) for check in _CHECKS.values()]


CheckFunction = Callable[[dict[str, pl.DataFrame], Staged, str], Check]


def keys_are_unique(frames: dict[str, pl.DataFrame], _staged: Staged, _cohort: str) -> Check:
    """No table has two rows of one key."""
    repeated = {
        table.name: int(frames[table.name].select(pl.struct(table.key).is_duplicated().sum()).item())
        for table in COHORT_TABLES
        if table.key
    }
    bad = {name: count for name, count in repeated.items() if count}
    return Check("keys_are_unique", not bad, f"repeated keys: {bad}" if bad else "every key occurs once")


def rows_belong_to_cases(frames: dict[str, pl.DataFrame], _staged: Staged, _cohort: str) -> Check:
    """Every row with a case_id has its case."""
    cases = frames["cases"].select("case_id")
    orphans = {
        table.name: frames[table.name].join(cases, on="case_id", how="anti").height
        for table in COHORT_TABLES
        if "case_id" in table.schema and table.name != "cases"
    }
    bad = {name: count for name, count in orphans.items() if count}
    return Check("rows_belong_to_cases", not bad, f"rows without a case: {bad}" if bad else "every row has its case")


def values_are_declared(frames: dict[str, pl.DataFrame], _staged: Staged, _cohort: str) -> Check:
    """Required columns are filled, allowed values and ranges hold."""
    bad = [problem for table in COHORT_TABLES for problem in _undeclared(table, frames[table.name])]
    return Check("values_are_declared", not bad, "; ".join(bad[:5]) or "every value is as its column declares")


def few_rows_are_quarantined(frames: dict[str, pl.DataFrame], staged: Staged, cohort: str) -> Check:
    """Not more of the cases table or the endpoints were rejected than the contract allows; what it leaves out does not count."""
    limit, shares = staged.contract.max_quarantined_fraction, {}
    is_rejected = pl.col("effect") == "rejected"
    rejected = frames["quarantine"].filter(is_rejected)
    unassigned = staged.table("quarantine", [staged.unassigned]).filter(is_rejected)
    for name in ("cases", "endpoints", "clinical"):
        is_its = pl.col("table_name") == name
        num_kept, num_rejected = frames["cases"].height, rejected.filter(is_its).n_unique("case_id_found")
        if name == "cases":  # unassigned rows are the whole contract's
            num_kept, num_rejected = staged.table("cases").height, num_rejected + unassigned.filter(is_its).height
        shares[name] = num_rejected / max(num_kept + num_rejected, 1)
    bad = {name: f"{share:.1%}" for name, share in shares.items() if share > limit}
    bad |= dict.fromkeys(staged.wholly_rejected, "100.0%")
    if not bad:
        return Check("few_rows_are_quarantined", is_passed=True, found=f"under {limit:.0%} rejected")
    of_bad = pl.concat([rejected, unassigned]).filter(pl.col("table_name").is_in(list(bad)))
    counted = of_bad.group_by("table_name", "reason").len()
    table, reason, num_rows = counted.sort("len", "table_name", "reason", descending=[True, False, False]).row(0)
    found = (
        f"rejected {bad} of {cohort}, at most {limit:.0%} allowed; most often {reason!r} ({num_rows} rows of {table}); "
        f"all of them: {staged.folder / 'quarantine.parquet'}"
    )
    return Check("few_rows_are_quarantined", is_passed=False, found=found)


def outcomes_can_be_learned(frames: dict[str, pl.DataFrame], _staged: Staged, cohort: str) -> Check:
    """The cohort has cases, and one endpoint at least has an event among several cases."""
    endpoints = frames["endpoints"].group_by("endpoint").agg(pl.len(), pl.col("event_observed").sum().alias("events"))
    is_passed = not endpoints.filter((pl.col("events") > 0) & (pl.col("len") > 1)).is_empty()
    counts = ", ".join(f"{name} {cases} cases with {events} events" for name, cases, events in endpoints.sort("endpoint").rows())
    return Check("outcomes_can_be_learned", is_passed, f"{cohort}: {frames['cases'].height} cases; {counts or 'no outcome'}")


def _undeclared(table: Table, frame: pl.DataFrame) -> list[str]:
    problems = []
    for column in table.columns:
        values = frame[column.name]
        if column.is_required and values.null_count():
            problems.append(f"{table.name}.{column.name}: {values.null_count()} empty, expected none")
        if column.allowed and (odd := set(values.drop_nulls().unique()) - set(column.allowed)):
            problems.append(f"{table.name}.{column.name}: {sorted(odd)[:3]}, expected one of {column.allowed}")
        if column.minimum is not None and ((values < column.minimum).any() or values.cast(pl.Float64).is_nan().any()):
            problems.append(f"{table.name}.{column.name}: under {column.minimum} or NaN")
        if column.maximum is not None and (values > column.maximum).any():
            problems.append(f"{table.name}.{column.name}: over {column.maximum}")
    return problems


_CHECKS: dict[str, CheckFunction] = {
    check.__name__: check
    for check in (
        keys_are_unique,
        rows_belong_to_cases,
        values_are_declared,
        few_rows_are_quarantined,
        outcomes_can_be_learned,
    )
}
CHECKS: dict[str, str] = {name: (check.__doc__ or "").strip() for name, check in _CHECKS.items()}
