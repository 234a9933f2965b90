"""A training set: what one snapshot holds for an endpoint and a split, read into arrays. The only door from store to training.

Nothing is fitted here, and nothing known only after time zero leaves: outcome columns come out as outcomes alone.
Shape legend: n cases (rows sorted by case_id), g features of a panel union.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from feature_store.bag_file import BagRecord
from feature_store.errors import LeakageError, SnapshotMissingError, StudyError
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE
from feature_store.tables import BY_NAME, CLINICAL

# The tables whose contents make a training set what it is.
_FEATURE_TABLES = (
    "cases", "endpoints", "clinical", "rna", "copy_number", "gene_panels", "mutations", "reports", "slides", "patch_bags",
    "modality_matrix", "folds",
)  # fmt: skip
CLINICAL_FEATURES = ("age_at_diagnosis_years", "sex", "stage", "grade")


@dataclass(frozen=True)
class Vectors:
    """A vector modality: `values` (n, g) float32 with NaN where unknown; `is_present` (n,)."""

    features: tuple[str, ...]
    values: NDArray[np.float32]
    is_present: NDArray[np.bool_]


@dataclass(frozen=True)
class Mutations:
    """`counts` (n, g) sparse number of non-silent variants by gene; `is_present` (n,): the case was sequenced."""

    genes: tuple[str, ...]
    counts: sparse.csr_matrix
    is_present: NDArray[np.bool_]


@dataclass(frozen=True)
class TrainingSet:
    """Everything training may see of n cases, and their outcomes.

    `cases`: case_id, cohort, cancer_type, site, fold (null where the split has no place for the case).
    `duration_days` (n,) > 0, `event_observed` (n,). `clinical`: baseline columns, row-aligned with `cases`.
    `reports`: the case's texts joined, or None. `bags`: the case's bags, slides in order of their ids.
    """

    training_set_id: str
    snapshot_id: int
    endpoint: str
    split: str
    cases: pl.DataFrame
    duration_days: NDArray[np.float64]
    event_observed: NDArray[np.bool_]
    clinical: pl.DataFrame
    rna: Vectors
    copy_number: Vectors
    mutations: Mutations
    reports: tuple[str | None, ...]
    bags: tuple[tuple[BagRecord, ...], ...]

    def __len__(self) -> int:
        """Return n."""
        return self.cases.height


def latest_snapshot(lake: Lake) -> int:
    """Return the id of the newest snapshot that published a cohort: the newest data to train on."""
    published = [s.snapshot_id for s in lake.snapshots() if s.message.startswith(COHORT_MESSAGE)]
    if not published:
        raise SnapshotMissingError("feature store: no cohort was ever published, expected one. Materialize a cohort first.")
    return max(published)


def training_set_id(lake: Lake, snapshot_id: int, cohorts: Sequence[str], endpoint: str, split: str) -> str:
    """Return the content hash of the rows, endpoint and split: equal ids mean equal training sets."""
    with lake.reader(snapshot_id) as connection:
        rows = connection.execute(
            "SELECT scope, table_name, content_sha256 FROM publications WHERE list_contains(?, scope) AND list_contains(?, table_name) "
            "ORDER BY ALL",
            [list(cohorts), list(_FEATURE_TABLES)],
        ).fetchall()
    return hashlib.sha256(repr((rows, endpoint, split)).encode()).hexdigest()[:32]


def read_training_set(
    lake: Lake,
    snapshot_id: int,
    cohorts: Sequence[str],
    endpoint: str,
    split: str,
    clinical_features: Sequence[str] = CLINICAL_FEATURES,
    slide_encoder: str | None = None,
) -> TrainingSet:
    """Read a training set from one snapshot.

    Raises LeakageError for a clinical feature that is not a baseline column, SnapshotMissingError if no case has the endpoint,
    StudyError if several encoders made the bags and `slide_encoder` names none.
    """
    _refuse_leakage(clinical_features)
    with lake.reader(snapshot_id) as connection:
        cases = _frame(
            connection,
            "SELECT c.case_id, c.cohort, c.cancer_type, c.site, e.duration_days, e.event_observed, f.fold "
            "FROM cases c JOIN endpoints e ON e.case_id = c.case_id AND e.endpoint = $endpoint "
            "LEFT JOIN folds f ON f.case_id = c.case_id AND f.split = $split "
            "WHERE list_contains($cohorts, c.cohort) ORDER BY c.case_id",
            {"endpoint": endpoint, "split": split, "cohorts": list(cohorts)},
        )
        if cases.is_empty():
            raise SnapshotMissingError(
                f"snapshot {snapshot_id}: no case of {list(cohorts)[:5]} has endpoint {endpoint}, expected some. "
                "Materialize the cohorts, or choose another endpoint."
            )
        ids = cases.select("case_id").with_row_index("row")
        present = _frame(connection, "SELECT case_id, modality FROM modality_matrix WHERE state = 'present'", {})
        columns = ", ".join(f'"{name}"' for name in clinical_features)
        clinical = _frame(connection, f"SELECT case_id, {columns} FROM clinical", {})
        return TrainingSet(
            training_set_id=training_set_id(lake, snapshot_id, cohorts, endpoint, split),
            snapshot_id=snapshot_id,
            endpoint=endpoint,
            split=split,
            cases=cases.drop("duration_days", "event_observed"),
            duration_days=cases["duration_days"].to_numpy(),
            event_observed=cases["event_observed"].to_numpy(),
            clinical=ids.join(clinical, on="case_id", how="left", maintain_order="left").drop("row", "case_id"),
            rna=_vectors(connection, "rna", ids),
            copy_number=_vectors(connection, "copy_number", ids),
            mutations=_mutations(connection, ids, present),
            reports=_reports(connection, ids),
            bags=_bags(connection, ids, slide_encoder),
        )


def _refuse_leakage(names: Sequence[str]) -> None:
    declared = {column.name: column for column in CLINICAL.columns}
    for name in names:
        role = declared[name].role if name in declared else "undeclared"
        if role != "baseline":
            raise LeakageError(f"clinical feature {name}: role {role}, expected baseline. Take it out of the study.")


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame(connection.execute(query, parameters).to_arrow_table())


def _vectors(connection: duckdb.DuckDBPyConnection, table: str, ids: pl.DataFrame) -> Vectors:
    """Place each panel's rows into the union of all panels' features (sorted by name)."""
    panels = _frame(
        connection,
        "SELECT DISTINCT panel_id, position, feature FROM gene_panels WHERE modality = $m ORDER BY panel_id, position",
        {"m": table},
    )
    features = panels["feature"].unique().sort().to_list()
    column_of = {name: index for index, name in enumerate(features)}
    values = np.full((ids.height, len(features)), np.nan, np.float32)
    is_present = np.zeros(ids.height, bool)
    for (panel_id,), panel in panels.group_by("panel_id", maintain_order=True):
        rows = _frame(connection, f'SELECT case_id, "values" FROM {BY_NAME[table].name} WHERE panel_id = $p', {"p": panel_id})
        rows = rows.join(ids, on="case_id").sort("row")
        if rows.is_empty():
            continue
        columns = [column_of[name] for name in panel["feature"]]
        matrix = rows["values"].list.to_array(len(columns)).to_numpy()
        values[np.ix_(rows["row"].to_numpy(), columns)] = matrix
        is_present[rows["row"].to_numpy()] = True
    return Vectors(tuple(features), values, is_present)


def _mutations(connection: duckdb.DuckDBPyConnection, ids: pl.DataFrame, present: pl.DataFrame) -> Mutations:
    found = _frame(connection, "SELECT case_id, gene_symbol, count(*)::INTEGER AS n FROM mutations GROUP BY ALL", {})
    found = found.join(ids, on="case_id")
    genes = found["gene_symbol"].unique().sort().to_list()
    column = found["gene_symbol"].replace_strict({g: i for i, g in enumerate(genes)}, return_dtype=pl.Int32)
    shape = (ids.height, len(genes))
    counts = sparse.csr_matrix((found["n"].to_numpy(), (found["row"].to_numpy(), column.to_numpy())), shape=shape, dtype=np.float32)
    sequenced = present.filter(pl.col("modality") == "mutations").join(ids, on="case_id")["row"].to_numpy()
    is_present = np.zeros(ids.height, bool)
    is_present[sequenced] = True
    return Mutations(tuple(genes), counts, is_present)


def _reports(connection: duckdb.DuckDBPyConnection, ids: pl.DataFrame) -> tuple[str | None, ...]:
    texts = _frame(
        connection, "SELECT case_id, string_agg(text, '\n' ORDER BY report_id) AS text FROM reports GROUP BY case_id", {}
    )
    return tuple(ids.join(texts, on="case_id", how="left", maintain_order="left")["text"])


def _bags(connection: duckdb.DuckDBPyConnection, ids: pl.DataFrame, encoder: str | None) -> tuple[tuple[BagRecord, ...], ...]:
    bags: list[list[BagRecord]] = [[] for _ in range(ids.height)]
    rows = _frame(connection, "SELECT * FROM patch_bags ORDER BY case_id, slide_id, encoder", {}).join(ids, on="case_id")
    rows = rows if encoder is None else rows.filter(pl.col("encoder") == encoder)
    if rows["encoder"].n_unique() > 1:
        raise StudyError(
            f"slides: encoders {sorted(rows['encoder'].unique())}, expected one. Name it under features.slide_encoder of the study."
        )
    fields = BagRecord.__dataclass_fields__
    for row in rows.sort("row", "slide_id").iter_rows(named=True):
        bags[row["row"]].append(BagRecord(**{name: row[name] for name in fields}))
    return tuple(tuple(found) for found in bags)
