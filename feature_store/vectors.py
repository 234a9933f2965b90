"""Whole case vectors for training, at memory speed: rows out of the matrices of vector_cache.py, over the union of their panels.

What belongs here: which rows and columns a case's vector has. One gene over all cases is the business of transposed.py and SQL.
Shape legend: n cases asked for, m cases of a cohort with a panel, g features of the union.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.home import Home
from feature_store.vector_cache import Matrix, Read, matrix_of, path_of

_CASES_PER_BATCH = 256  # of 20,000 genes: 20 MB


@dataclass(frozen=True)
class _Panel:
    """One panel: `which` matrix and its row `row_of` (n,) hold a case's vector (-1: none does), `columns` says where it goes."""

    matrices: tuple[Matrix, ...]
    which: NDArray[np.int32]
    row_of: NDArray[np.int32]
    columns: NDArray[np.int64] | None  # None: the panel has every feature, in order


class CaseVectors:
    """The vectors of n cases over the union of their panels; made by `open_vectors`. `is_present` (n,): the case has one."""

    def __init__(self, features: Sequence[str], panels: Sequence[_Panel], num_cases: int) -> None:
        self.features = tuple(features)
        self._panels = tuple(panels)
        self._is_covered = np.zeros(num_cases, bool)
        self.is_present = np.zeros(num_cases, bool)
        for panel in panels:
            self.is_present |= panel.which >= 0
            if panel.columns is None:
                self._is_covered |= panel.which >= 0

    def rows(self, indices: Sequence[int] | NDArray[np.integer], out: Matrix | None = None) -> Matrix:
        """Return the vectors (len(indices), g) of some cases, in `out` if it is given; NaN where the case has no value."""
        values = np.empty((len(indices), len(self.features)), np.float32) if out is None else out
        for target, index in zip(values, indices, strict=True):
            if not self._is_covered[index]:
                target.fill(np.nan)
            for panel in self._panels:
                if (matrix := panel.which[index]) >= 0:
                    target[slice(None) if panel.columns is None else panel.columns] = panel.matrices[matrix][panel.row_of[index]]
        return values


def open_vectors(home: Home, connection: duckdb.DuckDBPyConnection, cases: pl.DataFrame, table: str) -> CaseVectors:
    """Open the vectors of `cases` (n rows of cohort and case_id) in `table` of the connection's snapshot.

    `table`: rna, copy_number or protein.
    Features are the union of the cohorts' panels, sorted by name. Makes the cohorts' files in the cache where they are missing.
    """
    cohorts = cases["cohort"].unique().sort().to_list()
    panels = _frame(
        connection,
        "SELECT DISTINCT panel_id, position, feature FROM gene_panels "
        "WHERE modality = $table AND list_contains($cohorts, cohort) ORDER BY panel_id, position",
        {"table": table, "cohorts": cohorts},
    )
    features = panels["feature"].unique().sort().to_list()
    column_of = {feature: column for column, feature in enumerate(features)}
    stored = _frame(
        connection,
        f'SELECT cohort, panel_id, case_id FROM "{table}" WHERE list_contains($cohorts, cohort) ORDER BY ALL',
        {"cohorts": cohorts},
    )
    hashes = dict(
        connection.execute(
            "SELECT scope, content_sha256 FROM publications WHERE table_name = $table AND list_contains($cohorts, scope)",
            {"table": table, "cohorts": cohorts},
        ).fetchall()
    )
    wanted = cases.select("cohort", "case_id").with_row_index("index")
    opened = []
    for (panel_id,), panel in panels.group_by("panel_id", maintain_order=True):
        of_panel = stored.filter(pl.col("panel_id") == panel_id)
        matrices: list[Matrix] = []
        which, row_of = np.full((2, cases.height), -1, np.int32)
        for (cohort,), rows in of_panel.group_by("cohort", maintain_order=True):
            found = rows.with_row_index("row").join(wanted, on=["cohort", "case_id"])
            if found.is_empty():
                continue
            which[found["index"].to_numpy()] = len(matrices)
            row_of[found["index"].to_numpy()] = found["row"].to_numpy()
            row_of_case = dict(zip(rows["case_id"], range(rows.height), strict=True))
            read = _reader(connection, table, (str(cohort), str(panel_id)), row_of_case, panel.height)
            path = path_of(home, table, str(cohort), str(panel_id), hashes[cohort])
            matrices.append(matrix_of(path, (rows.height, panel.height), read))
        columns = np.array([column_of[feature] for feature in panel["feature"]])
        is_whole = np.array_equal(columns, np.arange(len(features)))
        opened.append(_Panel(tuple(matrices), which, row_of, None if is_whole else columns))
    return CaseVectors(features, opened, cases.height)


def _reader(connection: duckdb.DuckDBPyConnection, table: str, of: tuple[str, str], row_of: dict[str, int], width: int) -> Read:
    """Return what yields (rows (k,), values (k, width)) of a cohort and panel, batch by batch as the table has them."""

    def read() -> Iterator[tuple[NDArray[np.int64], Matrix]]:
        query = f'SELECT case_id, "values" FROM "{table}" WHERE cohort = $cohort AND panel_id = $panel_id'
        found = connection.execute(query, dict(zip(("cohort", "panel_id"), of, strict=True))).to_arrow_reader(_CASES_PER_BATCH)
        for batch in found:
            rows = np.array([row_of[case_id] for case_id in batch["case_id"].to_pylist()])
            yield rows, batch["values"].flatten().to_numpy(zero_copy_only=False).reshape(len(rows), width)

    return read


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(connection.execute(query, parameters).to_arrow_table())
