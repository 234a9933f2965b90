"""Pathology reports as text: one row per document, untouched but for surrounding space."""

from collections.abc import Iterator

import polars as pl

from feature_store import tables
from feature_store.contract.feature_sources import AnyReportSource, DocumentsSource, ReportSource
from feature_store.ingest.case_files import case_files
from feature_store.ingest.context import Ingest
from feature_store.ingest.documents import Documents, UnreadableDocumentError
from feature_store.progress import tracked
from feature_store.sources import SourceFile, require_columns


def read_reports(ingest: Ingest) -> pl.DataFrame:
    """Return the table `reports`; too-short texts and unknown cases go to quarantine."""
    frames = [tables.REPORTS.empty()]
    for spec in ingest.contract.reports:
        have = pl.concat(frames)["case_id"].unique().to_list() if spec.fills_gaps else []
        read = _from_documents(ingest, spec, have) if isinstance(spec, DocumentsSource) else _from_tables(ingest, spec, have)
        frames += [_accepted(ingest, spec, frame, file) for file, frame in read]
    return pl.concat(frames)


def _accepted(ingest: Ingest, spec: AnyReportSource, frame: pl.DataFrame, file: SourceFile) -> pl.DataFrame:
    """Return the reports among rows with `text` and `source_sha256` that are long enough, each once."""
    frame = frame.with_columns(pl.col("text").fill_null("").str.strip_chars())
    frame = ingest.with_identifier(frame, spec.report_id, "report_id", "reports", file)
    frame = frame.with_columns(num_characters=pl.col("text").str.len_chars().cast(pl.Int32))
    is_long = pl.col("num_characters") >= spec.min_characters
    ingest.reject(
        frame.filter(~is_long), "reports", file, f"text under {spec.min_characters} characters", pl.col("num_characters")
    )
    frame = ingest.one_row_per(frame.filter(is_long), "reports", file, ["_case_id", "text"], key="report_id")
    return tables.REPORTS.conform(frame.with_columns(case_id="_case_id"))


def _from_tables(ingest: Ingest, spec: ReportSource, have: list[str]) -> Iterator[tuple[SourceFile, pl.DataFrame]]:
    for file, raw in ingest.read(spec):
        require_columns(raw, [spec.report_id, spec.text], file)
        frame = ingest.rows(raw, spec, "reports", file).filter(~pl.col("_case_id").is_in(have))
        yield file, frame.with_columns(text=pl.col(spec.text), source_sha256=pl.lit(file.sha256))


def _from_documents(ingest: Ingest, spec: DocumentsSource, have: list[str]) -> Iterator[tuple[SourceFile, pl.DataFrame]]:
    for listing, frame, files in case_files(ingest, spec, "reports"):
        require_columns(frame, [spec.report_id], listing)
        texts: list[str | None] = []
        reasons: list[str | None] = []
        is_wanted = (~frame["_case_id"].is_in(have)).to_list()
        with Documents(spec.file.encoding, has_ocr=spec.ocr) as documents:
            for is_read, file in tracked(zip(is_wanted, files, strict=True), f"{ingest.contract.name}: reports", len(files)):
                text, reason = None, None
                if is_read:
                    try:
                        text = documents.text(file.path)
                    except UnreadableDocumentError as error:
                        reason = str(error)
                texts.append(text)
                reasons.append(reason)
        told = frame.with_columns(
            text=pl.Series(texts, dtype=pl.String),
            source_sha256=pl.Series([file.sha256 for file in files], dtype=pl.String),
            _reason=pl.Series(reasons, dtype=pl.String),
        ).filter(pl.Series(is_wanted, dtype=pl.Boolean))
        for (reason,), rows in told.filter(pl.col("_reason").is_not_null()).group_by("_reason", maintain_order=True):
            ingest.reject(rows, "reports", listing, str(reason), pl.col("_place"))
        yield listing, told.filter(pl.col("_reason").is_null())
