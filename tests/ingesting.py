"""What the tests of ingest share: edits of a landing's tables, and questions to a staged contract."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from conftest import read_table

from feature_store.ingest.stage import Staged

of_case = pl.col("case_id")


def planted(landing: Path) -> dict[str, dict[str, Any]]:
    return dict(json.loads((landing / "MANIFEST.json").read_text("utf-8"))["planted"])


def rejected(staged: Staged, table: str, *found: str) -> pl.DataFrame:
    rows = staged.table("quarantine").filter(pl.col("table_name") == table)
    return rows.filter(pl.col("case_id_found").is_in(found)) if found else rows


def reasons(staged: Staged, table: str, *found: str) -> list[str]:
    return rejected(staged, table, *found)["reason"].to_list()


def ids(staged: Staged, table: str = "cases") -> list[str]:
    return staged.table(table)["case_id"].to_list()


def state(staged: Staged, case_id: str, modality: str) -> tuple[str, str | None]:
    row = staged.table("modality_matrix").filter((of_case == case_id) & (pl.col("modality") == modality))
    return row["state"].item(), row["reason"].item()


def changed(column: str, value: object, *, at: int = 0) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return an edit that replaces one row's value, or calls `value` on it."""

    def edit(frame: pl.DataFrame) -> pl.DataFrame:
        old = frame[column].to_list()
        old[at] = value(old[at]) if callable(value) else value
        return frame.with_columns(pl.Series(column, old, dtype=pl.String))

    return edit


def repeated(*changes: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return an edit that appends the first row again, with columns changed."""
    return lambda frame: pl.concat([frame, frame.head(1).with_columns(*changes)])


def first_case(landing: Path, file: str = "clinical.csv") -> str:
    return str(read_table(landing / file)["case_id"][0])


def same_rows(one: Staged, other: Staged, table: str) -> bool:
    """Say whether two stagings hold the same rows of a table, but for the fingerprint of the source."""
    return bool(one.table(table).drop("source_sha256").equals(other.table(table).drop("source_sha256")))


def slide_of(landing: Path, row: int = 0) -> tuple[str, str, Path]:
    """Return (slide_id, case_id, h5 file) of a row of slides.csv whose case has no other slide."""
    slides = read_table(landing / "slides.csv")
    single = slides.filter(~of_case.is_duplicated())
    slide_id, case_id = single.select("slide_id", "case_id").row(row)
    return slide_id, case_id, landing / "slides" / f"{slide_id}.h5"
