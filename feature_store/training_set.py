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

from feature_store.bag_record import BagRecord
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
        return _content_id(connection, cohorts, endpoint, split)


def _content_id(connection: duckdb.DuckDBPyConnection, cohorts: Sequence[str], endpoint: str, split: str) -> str:
    rows = connection.execute(
        "SELECT scope, table_name, content_sha256 FROM publications "
        "WHERE list_contains(?, scope) AND list_contains(?, table_name) ORDER BY ALL",
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

    Raises LeakageError for a clinical feature that is not a baseline column and for a case in two of the cohorts,
    SnapshotMissingError if no case has the endpoint, StudyError if the split has a place for no case, or if several encoders
    made the bags and `slide_encoder` names none.
    """
    _refuse_leakage(clinical_features)
    with lake.reader(snapshot_id) as connection:
        cases = _frame(
            connection,
            "SELECT c.case_id, c.cohort, c.cancer_type, c.site, e.duration_days, e.event_observed, f.fold "
            "FROM cases c JOIN endpoints e ON e.case_id = c.case_id AND e.cohort = c.cohort AND e.endpoint = $endpoint "
            "LEFT JOIN folds f ON f.case_id = c.case_id AND f.cohort = c.cohort AND f.split = $split "
            "WHERE list_contains($cohorts, c.cohort) ORDER BY c.case_id",
            {"endpoint": endpoint, "split": split, "cohorts": list(cohorts)},
        )
        if cases.is_empty():
            raise SnapshotMissingError(
                f"snapshot {snapshot_id}: no case of {list(cohorts)[:5]} has endpoint {endpoint}, expected some. "
                "Materialize the cohorts, or choose another endpoint."
            )
        _refuse_repeated(cases)
        if cases["fold"].null_count() == cases.height:
            splits = [name for (name,) in connection.execute("SELECT DISTINCT split FROM folds ORDER BY ALL").fetchall()]
            raise StudyError(
                f"split {split}: no case of {list(cohorts)[:5]} has a fold, expected one of {splits}. Correct the study."
            )
        # what the other queries join, so that a case of the same id in a cohort not asked for stays out
        connection.register("chosen", cases.select("cohort", "case_id").with_row_index("row").to_arrow())
        columns = ", ".join(["row", *(f'"{name}"' for name in clinical_features)])
        clinical = _frame(connection, f"SELECT {columns} FROM chosen LEFT JOIN clinical USING (cohort, case_id) ORDER BY row")
        return TrainingSet(
            training_set_id=_content_id(connection, cohorts, endpoint, split),
            snapshot_id=snapshot_id,
            endpoint=endpoint,
            split=split,
            cases=cases.drop("duration_days", "event_observed"),
            duration_days=cases["duration_days"].to_numpy(),
            event_observed=cases["event_observed"].to_numpy(),
            clinical=clinical.drop("row"),
            rna=_vectors(connection, "rna", cases.height),
            copy_number=_vectors(connection, "copy_number", cases.height),
            mutations=_mutations(connection, cases.height),
            reports=_reports(connection),
            bags=_bags(connection, cases.height, slide_encoder),
        )


def _refuse_leakage(names: Sequence[str]) -> None:
    declared = {column.name: column for column in CLINICAL.columns}
    for name in names:
        role = declared[name].role if name in declared else "undeclared"
        if role != "baseline":
            raise LeakageError(f"clinical feature {name}: role {role}, expected baseline. Take it out of the study.")


def _refuse_repeated(cases: pl.DataFrame) -> None:
    repeated = cases.filter(pl.col("case_id").is_duplicated())
    if len(repeated):
        ids, cohorts = (repeated[name].unique().sort().to_list() for name in ("case_id", "cohort"))
        raise LeakageError(
            f"training set: {len(ids)} cases in several of the cohorts {cohorts}, expected one each; first {ids[:3]}. "
            "A case could be trained on in one and held out in another: leave a cohort out."
        )


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
    return pl.DataFrame(connection.execute(query, parameters or {}).to_arrow_table())


def _vectors(connection: duckdb.DuckDBPyConnection, table: str, num_cases: int) -> Vectors:
    """Place each panel's rows into the union of the chosen cohorts' panels (features sorted by name)."""
    panels = _frame(
        connection,
        "SELECT DISTINCT panel_id, position, feature FROM gene_panels "
        "WHERE modality = $m AND cohort IN (SELECT cohort FROM chosen) ORDER BY panel_id, position",
        {"m": table},
    )
    features = panels["feature"].unique().sort().to_list()
    column_of = {name: index for index, name in enumerate(features)}
    values = np.full((num_cases, len(features)), np.nan, np.float32)
    is_present = np.zeros(num_cases, bool)
    for (panel_id,), panel in panels.group_by("panel_id", maintain_order=True):
        rows = _frame(
            connection,
            f'SELECT row, "values" FROM chosen JOIN {BY_NAME[table].name} USING (cohort, case_id) '
            "WHERE panel_id = $p ORDER BY row",
            {"p": panel_id},
        )
        if rows.is_empty():
            continue
        columns = [column_of[name] for name in panel["feature"]]
        matrix = rows["values"].list.to_array(len(columns)).to_numpy()
        values[np.ix_(rows["row"].to_numpy(), np.array(columns))] = matrix
        is_present[rows["row"].to_numpy()] = True
    return Vectors(tuple(features), values, is_present)


def _mutations(connection: duckdb.DuckDBPyConnection, num_cases: int) -> Mutations:
    found = _frame(
        connection,
        "SELECT row, gene_symbol, count(*)::INTEGER AS n FROM chosen JOIN mutations USING (cohort, case_id) "
        "GROUP BY ALL ORDER BY ALL",
    )
    genes = found["gene_symbol"].unique().sort().to_list()
    column = found["gene_symbol"].replace_strict({g: i for i, g in enumerate(genes)}, return_dtype=pl.Int32)
    counts = sparse.csr_matrix(
        (found["n"].to_numpy(), (found["row"].to_numpy(), column.to_numpy())), shape=(num_cases, len(genes)), dtype=np.float32
    )
    sequenced = _frame(
        connection,
        "SELECT row FROM chosen JOIN modality_matrix USING (cohort, case_id) WHERE modality = 'mutations' AND state = 'present'",
    )
    is_present = np.zeros(num_cases, bool)
    is_present[sequenced["row"].to_numpy()] = True
    return Mutations(tuple(genes), counts, is_present)


def _reports(connection: duckdb.DuckDBPyConnection) -> tuple[str | None, ...]:
    texts = _frame(
        connection,
        "SELECT row, string_agg(text, '\n' ORDER BY report_id) AS text FROM chosen LEFT JOIN reports USING (cohort, case_id) "
        "GROUP BY row ORDER BY row",
    )
    return tuple(texts["text"])


def _bags(connection: duckdb.DuckDBPyConnection, num_cases: int, encoder: str | None) -> tuple[tuple[BagRecord, ...], ...]:
    bags: list[list[BagRecord]] = [[] for _ in range(num_cases)]
    rows = _frame(connection, "SELECT * FROM chosen JOIN patch_bags USING (cohort, case_id) ORDER BY row, slide_id, encoder")
    found = rows["encoder"].unique().sort().to_list()
    if (encoder is None and len(found) > 1) or (encoder is not None and found and encoder not in found):
        raise StudyError(f"slides: encoders {found}, expected one. Name it in the study: features.slide_encoder.")
    rows = rows if encoder is None else rows.filter(pl.col("encoder") == encoder)
    fields = BagRecord.__dataclass_fields__
    for row in rows.iter_rows(named=True):
        bags[row["row"]].append(BagRecord(**{name: row[name] for name in fields}))
    return tuple(tuple(of_case) for of_case in bags)
