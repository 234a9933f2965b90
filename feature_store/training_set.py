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
from feature_store.errors import SnapshotMissingError, StudyError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.leakage import refuse_late_columns, refuse_people_twice, refuse_repeated, refuse_slides_twice
from feature_store.publish import DATA_MESSAGES
from feature_store.report_embeddings import embeddings_of_cases
from feature_store.report_encoding import ReportEncoding
from feature_store.tables import CASE_ALIASES, CLINICAL, REPORT_EMBEDDINGS
from feature_store.vectors import open_vectors

# The tables whose contents make a training set what it is.
_FEATURE_TABLES = (
    "cases", "endpoints", "clinical", "rna", "copy_number", "protein", "gene_panels", "mutations", "reports", "slides",
    "patch_bags", "modality_matrix", "folds",
)  # fmt: skip
# The modalities that a training set has a part for; of what else a cohort may come to have, training knows nothing.
_MODALITIES = ("clinical", "rna", "copy_number", "protein", "mutations", "report", "slide")
# What is read unless others are asked for; which of them a model uses is the model's business.
CLINICAL_FEATURES = (
    "age_at_diagnosis_years", "sex", "stage", "grade", "substage", "t_stage", "n_stage", "m_stage", "histology", "diagnosis_year",
)  # fmt: skip


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
    `reports`: the case's texts joined, or None. `report_embeddings`: the mean over a case's reports, of width 0 unless asked for.
    `bags`: the case's bags, slides in order of their ids.
    `missing_modalities`: which of these the modality matrix does not call present, comma-separated, '' if none.
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
    protein: Vectors
    mutations: Mutations
    reports: tuple[str | None, ...]
    report_embeddings: Vectors
    bags: tuple[tuple[BagRecord, ...], ...]
    missing_modalities: tuple[str, ...]

    def __len__(self) -> int:
        """Return n."""
        return self.cases.height


def latest_snapshot(lake: Lake) -> int:
    """Return the id of the newest snapshot that published a cohort, or embedded its reports: the newest data to train on."""
    published = [s.snapshot_id for s in lake.snapshots() if s.message.startswith(DATA_MESSAGES)]
    if not published:
        raise SnapshotMissingError("feature store: no cohort was ever published, expected one. Materialize a cohort first.")
    return max(published)


def training_set_id(
    lake: Lake,
    snapshot_id: int,
    cohorts: Sequence[str],
    endpoint: str,
    split: str,
    report_encoding: ReportEncoding | None = None,
) -> str:
    """Return the content hash of the rows, endpoint and split: equal ids mean equal training sets.

    Aliases count where there are any: they make no array, but decide whether a training set may be built. Report embeddings
    count for those who ask for a kind of them.
    """
    with lake.reader(snapshot_id) as connection:
        return _content_id(connection, cohorts, endpoint, split, report_encoding)


def _content_id(
    connection: duckdb.DuckDBPyConnection,
    cohorts: Sequence[str],
    endpoint: str,
    split: str,
    report_encoding: ReportEncoding | None,
) -> str:
    tables = [*_FEATURE_TABLES, *([] if report_encoding is None else [REPORT_EMBEDDINGS.name])]
    rows = connection.execute(
        "SELECT scope, table_name, content_sha256 FROM publications "
        "WHERE list_contains(?, scope) AND (list_contains(?, table_name) OR (table_name = ? AND num_rows > 0)) ORDER BY ALL",
        [list(cohorts), tables, CASE_ALIASES.name],
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
    report_encoding: ReportEncoding | None = None,
) -> TrainingSet:
    """Read a training set from one snapshot.

    Raises LeakageError for a clinical feature that is not a baseline column, for a case in two of the cohorts, a person with two
    cases (by their aliases) and a slide of two cases; SnapshotMissingError if no case has the endpoint, StudyError if the split
    has a place for no case, if several encoders made the bags and `slide_encoder` names none, or if a report has no embedding of
    the kind `report_encoding`.
    """
    refuse_late_columns(clinical_features)
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
        refuse_repeated(cases)
        if cases["fold"].null_count() == cases.height:
            splits = [name for (name,) in connection.execute("SELECT DISTINCT split FROM folds ORDER BY ALL").fetchall()]
            raise StudyError(
                f"split {split}: no case of {list(cohorts)[:5]} has a fold, expected one of {splits}. Correct the study."
            )
        # what the other queries join, so that a case of the same id in a cohort not asked for stays out
        connection.register("chosen", cases.select("cohort", "case_id").with_row_index("row").to_arrow())
        refuse_people_twice(connection, cases)
        refuse_slides_twice(connection)
        return TrainingSet(
            training_set_id=_content_id(connection, cohorts, endpoint, split, report_encoding),
            snapshot_id=snapshot_id,
            endpoint=endpoint,
            split=split,
            cases=cases.drop("duration_days", "event_observed"),
            duration_days=cases["duration_days"].to_numpy(),
            event_observed=cases["event_observed"].to_numpy(),
            clinical=_clinical(connection, clinical_features),
            rna=_vectors(lake.home, connection, cases, "rna"),
            copy_number=_vectors(lake.home, connection, cases, "copy_number"),
            protein=_vectors(lake.home, connection, cases, "protein"),
            mutations=_mutations(connection, cases.height),
            reports=_reports(connection),
            report_embeddings=_report_embeddings(connection, cases.height, report_encoding),
            bags=_bags(connection, cases.height, slide_encoder),
            missing_modalities=_missing_modalities(connection),
        )


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, object] | None = None) -> pl.DataFrame:
    return pl.DataFrame(connection.execute(query, parameters or {}).to_arrow_table())


def _clinical(connection: duckdb.DuckDBPyConnection, features: Sequence[str]) -> pl.DataFrame:
    """Return baseline columns; one that the snapshot's table did not have yet has no value, as in a store that got it since."""
    found = {name for name, *_ in connection.execute("FROM clinical LIMIT 0").description or ()}
    types = {column.name: column.sql_type for column in CLINICAL.columns}
    columns = [f'"{name}"' if name in found else f'NULL::{types[name]} AS "{name}"' for name in features]
    query = f"SELECT {', '.join(['row', *columns])} FROM chosen LEFT JOIN clinical USING (cohort, case_id) ORDER BY row"
    return _frame(connection, query).drop("row")


def _vectors(home: Home, connection: duckdb.DuckDBPyConnection, cases: pl.DataFrame, table: str) -> Vectors:
    found = open_vectors(home, connection, cases, table)
    return Vectors(found.features, found.rows(range(cases.height)), found.is_present)


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


def _report_embeddings(connection: duckdb.DuckDBPyConnection, num_cases: int, encoding: ReportEncoding | None) -> Vectors:
    rows = None if encoding is None else embeddings_of_cases(connection, encoding)
    if rows is None or rows.is_empty():
        return Vectors((), np.empty((num_cases, 0), np.float32), np.zeros(num_cases, bool))
    width = int(rows["embedding"].list.len()[0])
    of_reports = rows["embedding"].list.to_array(width).to_numpy()
    row, num_reports = rows["row"].to_numpy(), np.bincount(rows["row"].to_numpy(), minlength=num_cases)
    values = np.zeros((num_cases, width), np.float32)
    np.add.at(values, row, of_reports / num_reports[row][:, None])
    return Vectors(tuple(map(str, range(width))), values, num_reports > 0)


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


def _missing_modalities(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    missing = _frame(
        connection,
        "SELECT row, coalesce(string_agg(modality, ',' ORDER BY modality) "
        "FILTER (state <> 'present' AND list_contains($modalities, modality)), '') AS missing "
        "FROM chosen LEFT JOIN modality_matrix USING (cohort, case_id) GROUP BY row ORDER BY row",
        {"modalities": list(_MODALITIES)},
    )
    return tuple(missing["missing"])
