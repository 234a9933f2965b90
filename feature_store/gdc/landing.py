"""The GDC's part of a landing folder: `gdc/files/<file id>/<file name>`, its index files.tsv, cases.json and redacted.tsv.

What belongs here: where these lie, and reading and writing the lists, each whole. What is in them is fetch.py's and sync.py's
business; a contract reads them.
"""

import csv
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from feature_store.durable import sync_folder
from feature_store.errors import GdcError, LandingMissingError
from feature_store.gdc.manifest import RemoteFile, checked


@dataclass(frozen=True)
class Row:
    """A file of the landing folder, a row of files.tsv. Ids of case, sample and aliquot are the submitter's (barcodes).

    A file of several cases has none of these; one of several samples has them joined by `;`, without the normal ones beside a
    tumour's.
    """

    file_id: str
    path: str
    file_name: str
    data_category: str
    data_type: str
    experimental_strategy: str
    workflow_type: str
    data_format: str
    md5: str
    num_bytes: int
    project_id: str
    case_id: str
    sample_id: str
    sample_type: str
    aliquot_id: str

    @property
    def file(self) -> RemoteFile:
        """Return the file to download. Raises ManifestError if it cannot be one."""
        return checked(self.file_id, self.file_name, self.md5, str(self.num_bytes))


@dataclass(frozen=True)
class Redacted:
    """A case that the GDC has withdrawn, a row of redacted.tsv: why, by which annotation if any, and when first seen (UTC)."""

    case_id: str
    reason: str
    annotation_id: str
    seen_at: str


Line = TypeVar("Line", Row, Redacted)


@dataclass(frozen=True)
class Landing:
    """A landing folder."""

    root: Path

    @property
    def files(self) -> Path:
        """Where the downloaded files lie, a folder each."""
        return self.root / "gdc" / "files"

    @property
    def is_fetched(self) -> bool:
        """Say whether anything was fetched into it."""
        return self._list("files.tsv").exists()

    def _list(self, name: str) -> Path:
        return self.root / "gdc" / name

    def rows(self) -> list[Row]:
        """Return what files there are. Raises LandingMissingError before the first fetch, GdcError for another table."""
        rows = _read_tsv(self._list("files.tsv"), Row)
        return [Row(**{**row, "num_bytes": int(row["num_bytes"])}) for row in rows]  # type: ignore[arg-type]

    def write_rows(self, rows: Iterable[Row]) -> None:
        """Write what files there are, ordered."""
        ordered = sorted(rows, key=lambda row: (row.project_id, row.data_type, row.workflow_type, row.case_id, row.file_id))
        _write_tsv(self._list("files.tsv"), Row, ordered)

    def cases(self) -> list[dict[str, Any]]:
        """Return the cases with their clinical data, as the GDC's cases endpoint has them. Raises as `rows` does."""
        path = self._list("cases.json")
        try:
            return list(json.loads(path.read_bytes()))
        except FileNotFoundError as error:
            raise _nothing_fetched(path) from error
        except ValueError as error:
            raise GdcError(f"{path}: {error}, expected a JSON list. Remove it and fetch again.") from error

    def write_cases(self, cases: list[dict[str, Any]]) -> None:
        """Write the cases in the order given."""
        _write_whole(self._list("cases.json"), json.dumps(cases, indent=1, sort_keys=True) + "\n")

    def redacted(self) -> list[Redacted]:
        """Return the cases that the GDC has withdrawn. Raises as `rows` does."""
        return [Redacted(**row) for row in _read_tsv(self._list("redacted.tsv"), Redacted)]

    def write_redacted(self, redacted: Iterable[Redacted]) -> None:
        """Write the cases that the GDC has withdrawn, ordered."""
        _write_tsv(self._list("redacted.tsv"), Redacted, sorted(redacted, key=lambda row: row.case_id))


def _read_tsv(path: Path, kind: type[Line]) -> list[dict[str, str]]:
    columns = [one.name for one in fields(kind)]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", strict=True)
            if list(reader.fieldnames or ()) != columns:
                raise GdcError(f"{path}: columns {reader.fieldnames}, expected {columns}. Fetch into another landing folder.")
            return list(reader)
    except FileNotFoundError as error:
        raise _nothing_fetched(path) from error


def _write_tsv(path: Path, kind: type[Line], lines: Iterable[Line]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [one.name for one in fields(kind)], delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    _write_whole(path, text.getvalue())


def _nothing_fetched(path: Path) -> LandingMissingError:
    return LandingMissingError(f"{path}: not there, expected what `mice gdc fetch` writes. Run that first.")


def _write_whole(path: Path, text: str) -> None:
    """Write a file that shows up whole or not at all; one that would not change is left alone."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.partial")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_folder(path.parent)
