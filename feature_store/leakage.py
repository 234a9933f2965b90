"""What keeps held-out cases and later knowledge out of training: refused columns, people, slides and rows.

Every function raises LeakageError or does nothing. `chosen` is the caller's view of a training set's cases: row, cohort, case_id.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.errors import LeakageError
from feature_store.people import People
from feature_store.tables import CASE_ALIASES, CLINICAL, COHORT_TABLES

_RISK = "A case could be trained on as one and held out as the other"
_SLIDES_TWICE = """
WITH held AS (
    SELECT 'slide ' || slide_id AS what, slide_id, case_id FROM chosen JOIN slides USING (cohort, case_id)
    UNION ALL
    SELECT 'equal patches, bag ' || bag_sha256, slide_id, case_id FROM chosen JOIN patch_bags USING (cohort, case_id)
)
SELECT what, list_sort(list_distinct(list(slide_id))) AS slide_ids, list_sort(list_distinct(list(case_id))) AS case_ids
FROM held GROUP BY what HAVING count(DISTINCT case_id) > 1 ORDER BY what
"""


def refuse_late_columns(names: Sequence[str]) -> None:
    """Raise LeakageError unless each is a baseline column of the table `clinical` that is known at time zero."""
    declared = {column.name: (table, column) for table in reversed((CLINICAL, *COHORT_TABLES)) for column in table.columns}
    for name in names:
        table, column = declared.get(name, (None, None))
        if table is CLINICAL and column is not None and (column.role, column.known_at) == ("baseline", "time zero"):
            continue
        found = "undeclared"
        if table is not None and column is not None:
            found = f"role {column.role}, known at {column.known_at} (table {table.name})"
        raise LeakageError(
            f"clinical feature {name}: {found}, expected a baseline column of clinical, known at time zero. "
            "Take it out of the study."
        )


def refuse_repeated(cases: pl.DataFrame) -> None:
    """Raise LeakageError if a case_id comes in several cohorts."""
    repeated = cases.filter(pl.col("case_id").is_duplicated())
    if len(repeated):
        ids, cohorts = (repeated[name].unique().sort().to_list() for name in ("case_id", "cohort"))
        raise LeakageError(
            f"training set: {len(ids)} cases in several of the cohorts {cohorts}, expected one each; first {ids[:3]}. "
            f"{_RISK}: leave a cohort out."
        )


def refuse_people_twice(connection: duckdb.DuckDBPyConnection, cases: pl.DataFrame) -> None:
    """Raise LeakageError if aliases say that two of the cases are one person; also by way of a case that is not in the set."""
    query = "SELECT 1 FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = ?"
    if not connection.execute(query, [CASE_ALIASES.name]).fetchone():
        return  # a snapshot of before
    query = "SELECT case_id, alias, source FROM case_aliases WHERE cohort IN (SELECT cohort FROM chosen) ORDER BY ALL"
    links = pl.DataFrame(connection.execute(query).to_arrow_table())
    people = People.linked(links)
    repeated = people.repeated(cases["case_id"])
    if repeated:
        person = people.person_of[repeated[0][0]]
        own = links.filter(pl.col("case_id").replace_strict(people.person_of, return_dtype=pl.Int64) == person)
        how = ", ".join(f"{case_id} is {alias} ({source})" for case_id, alias, source in own.head(4).iter_rows())
        raise LeakageError(
            f"training set: {len(repeated)} people with several cases, expected one each; first {repeated[0][:3]}: {how}. "
            f"{_RISK}: exclude one in its contract (cases.exclude), or leave a cohort out."
        )


def refuse_slides_twice(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise LeakageError if two of the cases hold the same slide, by its name or by its patches."""
    shared = connection.execute(_SLIDES_TWICE).fetchall()
    if shared:
        what, slide_ids, case_ids = shared[0]
        raise LeakageError(
            f"training set: {len(shared)} slides or bags with several cases, expected one each; first {what} "
            f"(slides {slide_ids[:3]}) of cases {case_ids[:3]}. {_RISK}: correct the slide table, or leave a cohort out."
        )


def refuse_held_out(cases: pl.DataFrame, rows: NDArray[np.integer], fold: int) -> None:
    """Raise LeakageError if any of `rows` (of `cases`, a training set's) is held out in `fold`: call it wherever is fitted."""
    held_out = cases[rows].filter(pl.col("fold") == fold)["case_id"]
    if len(held_out):
        raise LeakageError(
            f"fit without fold {fold}: {len(held_out)} of its {len(rows)} rows are held out in it, expected none; first "
            f"{held_out[:3].to_list()}. Fit on the training rows alone."
        )
