"""Report embeddings in the store: which reports still need one, which rows still hold, what a training set gets.

What belongs here: reading them. publish.py writes them; what an embedding is of a text is mice_model/report_embedding's
business. A row holds for the text whose hash it has: of a report that changed, or is gone, it is no longer used, and leaves
with the next publication of its cohort.
"""

import hashlib
from dataclasses import asdict

import duckdb
import polars as pl

from feature_store.errors import StoreMissingError, StudyError
from feature_store.lake import Lake
from feature_store.report_encoding import ReportEncoding
from feature_store.tables import REPORT_EMBEDDINGS

_NAME = REPORT_EMBEDDINGS.name


def pending_reports(lake: Lake, cohort: str, encoding: ReportEncoding, encoder_sha256: str) -> pl.DataFrame:
    """Return report_id, case_id, cohort, text and text_sha256 of the cohort's reports without an embedding by these weights."""
    with lake.reader() as connection:
        reports = _frame(
            connection,
            "SELECT report_id, case_id, cohort, text, sha256(text) AS text_sha256 FROM reports WHERE cohort = ? ORDER BY 1",
            [cohort],
        )
        done = _stored(connection, cohort).filter(_is_of(encoding), pl.col("encoder_sha256") == encoder_sha256)
    return reports.join(done, on=["report_id", "case_id", "text_sha256"], how="anti", maintain_order="left")


def texts_of_case(lake: Lake, snapshot_id: int, cohort: str, case_id: str) -> list[str]:
    """Return the texts of a case's reports in one snapshot, in the order of their identifiers."""
    query = "SELECT text FROM reports WHERE cohort = ? AND case_id = ? ORDER BY report_id"
    with lake.reader(snapshot_id) as connection:
        return [text for (text,) in connection.execute(query, [cohort, case_id]).fetchall()]


def with_new_ones(lake: Lake, cohort: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the cohort's embeddings that still hold and `rows`, which take the place of those of the same key."""
    with lake.reader() as connection:
        stored = _stored(connection, cohort)
        texts = _frame(connection, "SELECT report_id, sha256(text) AS text_sha256 FROM reports WHERE cohort = ?", [cohort])
    kept = stored.join(texts, on=["report_id", "text_sha256"], how="semi").join(rows, on=REPORT_EMBEDDINGS.key, how="anti")
    return pl.concat([kept, REPORT_EMBEDDINGS.conform(rows)])


def still_of(lake: Lake, cohort: str, reports: pl.DataFrame) -> pl.DataFrame | None:
    """Return which of the cohort's embeddings hold once `reports` are published, None where it has none."""
    try:
        with lake.reader() as connection:
            stored = _stored(connection, cohort)
    except StoreMissingError:
        return None
    if stored.is_empty():
        return None
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in reports["text"]]
    now = reports.select("report_id", "case_id", text_sha256=pl.Series(hashes, dtype=pl.String))
    return stored.join(now, on=["report_id", "case_id", "text_sha256"], how="semi")


def embeddings_of_cases(connection: duckdb.DuckDBPyConnection, encoding: ReportEncoding) -> pl.DataFrame:
    """Return `row` and `embedding`, a row per report of the cases in the temporary table `chosen` (cohort, case_id, row).

    Raises StudyError unless every report of theirs has one of this kind, all by the same weights and of the same width.
    """
    found = _frame(
        connection,
        "SELECT row, report_id, case_id, cohort, sha256(text) AS text_sha256 FROM chosen JOIN reports USING (cohort, case_id) "
        "ORDER BY row, report_id",
    )
    stored = pl.concat([_stored(connection, cohort) for cohort in found["cohort"].unique().sort()] or [REPORT_EMBEDDINGS.empty()])
    rows = found.join(
        stored.filter(_is_of(encoding)).select("report_id", "case_id", "text_sha256", "encoder_sha256", "embedding"),
        on=["report_id", "case_id", "text_sha256"],
        how="left",
        maintain_order="left",
    )
    without = rows.filter(pl.col("embedding").is_null())
    if without.height:
        raise StudyError(
            f"reports: {without.height} of {rows.height} have no embedding by {encoding.encoder} ({encoding.pooling}, outcome "
            f"words: {encoding.outcome_words}), expected one each; cohorts {without['cohort'].unique().sort().to_list()[:5]}. "
            "Run `mice embed-reports` for them, or materialize their report_embeddings."
        )
    kinds = rows.select("encoder_sha256", pl.col("embedding").list.len()).unique()
    if kinds.height > 1:
        raise StudyError(
            f"reports: embeddings of {kinds.height} versions of {encoding.encoder}, expected one. Embed all cohorts with the "
            "same weights."
        )
    return rows.select("row", "embedding")


def _is_of(encoding: ReportEncoding) -> pl.Expr:
    return pl.all_horizontal(pl.col(name) == value for name, value in asdict(encoding).items())


def _stored(connection: duckdb.DuckDBPyConnection, cohort: str) -> pl.DataFrame:
    if not connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = ?", [_NAME]).fetchall()[0][0]:
        return REPORT_EMBEDDINGS.empty()  # a snapshot of before there were any
    columns = ", ".join(f'"{name}"' for name in REPORT_EMBEDDINGS.schema)
    found = _frame(connection, f'SELECT {columns} FROM "{_NAME}" WHERE cohort = ? ORDER BY ALL', [cohort])
    return REPORT_EMBEDDINGS.conform(found)


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[str] | None = None) -> pl.DataFrame:
    return pl.DataFrame(connection.execute(query, parameters or []).to_arrow_table())
