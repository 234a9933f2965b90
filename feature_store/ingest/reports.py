"""Pathology reports as text: one row per document, untouched but for surrounding space."""

import polars as pl

from feature_store import tables
from feature_store.ingest.context import Ingest
from feature_store.sources import require_columns


def read_reports(ingest: Ingest) -> pl.DataFrame:
    """Return the table `reports`; too-short texts and unknown cases go to quarantine."""
    frames = [tables.REPORTS.empty()]
    for spec in ingest.contract.reports:
        have = pl.concat(frames)["case_id"].unique().to_list()
        for file, raw in ingest.read(spec):
            require_columns(raw, [spec.report_id, spec.text], file)
            frame = ingest.known(ingest.identify(raw, spec.case_id, "reports", file), "reports", file)
            if spec.fills_gaps:
                frame = frame.filter(~pl.col("_case_id").is_in(have))
            frame = frame.with_columns(text=pl.col(spec.text).fill_null("").str.strip_chars())
            frame = ingest.with_identifier(frame, spec.report_id, "report_id", "reports", file)
            frame = frame.with_columns(num_characters=pl.col("text").str.len_chars().cast(pl.Int32))
            is_long = pl.col("num_characters") >= spec.min_characters
            ingest.reject(
                frame.filter(~is_long),
                "reports",
                file,
                f"text under {spec.min_characters} characters",
                pl.col("num_characters"),
            )
            frame = ingest.one_row_per(frame.filter(is_long), "reports", file, ["_case_id", "text"], key="report_id")
            frames.append(tables.REPORTS.conform(frame.with_columns(case_id="_case_id", source_sha256=pl.lit(file.sha256))))
    return pl.concat(frames)
