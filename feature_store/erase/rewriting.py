"""Writing a table's Parquet file again without the erased person, as DuckLake would have written it.

DuckDB's own COPY gives back the statistics that DuckLake keeps; unchanged rows written so make the same bytes as the file they
came from (checked). What belongs here: one file in, one file out. Which rows: rows.py; what the catalog says of it: history.py.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.duckdb_instances import quoted
from feature_store.durable import sync_file, sync_folder
from feature_store.erase.history import ColumnStats, StoredFile, Written
from feature_store.erase.rows import Rule
from feature_store.errors import ErasureError

_NO_FIELD = (None, -1)


@contextmanager
def readable_files() -> Iterator[None]:
    """Raise ErasureError in the place of what DuckDB and Arrow say of a file that is missing or damaged."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        found = next(iter(str(error).strip().splitlines()), repr(error))
        raise ErasureError(
            f"table files: {found}, expected every file of every snapshot to be readable. Run `mice verify`, restore the file "
            "from a backup, and erase again: what was done so far stays done."
        ) from error


def scanned(paths: Sequence[Path], *, options: str = "") -> str:
    """Return the SQL source that reads Parquet files, and nothing of their folders' names."""
    listed = ", ".join(quoted(str(path)) for path in paths)
    return f"read_parquet([{listed}], hive_partitioning = false{options})"


def columns_of(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Return name -> type of a source's columns."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}


def count_rows(connection: duckdb.DuckDBPyConnection, paths: Sequence[Path], rule: Rule) -> dict[Path, tuple[int, int]]:
    """Return (rows that go, other rows that change) for each file in which there are any."""
    query = (
        f"SELECT filename, count(*) FILTER (WHERE {rule.gone}) AS gone, "
        f"count(*) FILTER (WHERE NOT {rule.gone} AND {rule.touched}) AS touched "
        f"FROM {scanned(paths, options=', filename = true, union_by_name = true')} GROUP BY filename HAVING gone + touched > 0"
    )
    return {Path(name): (gone, touched) for name, gone, touched in connection.execute(query).fetchall()}


def rewrite(connection: duckdb.DuckDBPyConnection, file: StoredFile, rule: Rule) -> Written | None:
    """Write what the rule leaves of a data file beside it; None, and no file, where that is nothing."""
    return _write(connection, file, rule.select(scanned([file.path])))


def positions_gone(connection: duckdb.DuckDBPyConnection, file: StoredFile, rule: Rule) -> npt.NDArray[np.int64]:
    """Return the positions of the rows that go, ascending."""
    query = f"SELECT file_row_number FROM {scanned([file.path], options=', file_row_number = true')} WHERE {rule.gone} ORDER BY 1"
    return connection.execute(query).fetchnumpy()["file_row_number"].astype(np.int64)


def rewrite_positions(
    connection: duckdb.DuckDBPyConnection, file: StoredFile, data: Path, gone: npt.NDArray[np.int64]
) -> Written | None:
    """Write a file of deleted positions for the data file `data`, from which the rows at `gone` were taken."""
    rows = pl.DataFrame(connection.execute(f"SELECT * FROM {scanned([file.path])}").to_arrow_table())
    positions = rows["pos"].to_numpy()
    shifted = positions - np.searchsorted(gone, positions)
    rows = rows.with_columns(file_path=pl.lit(str(data)), pos=pl.Series(shifted)).filter(~np.isin(positions, gone))
    connection.register("kept_positions", rows.to_arrow())
    try:
        return _write(connection, file, "SELECT * FROM kept_positions", suffix="-delete")
    finally:
        connection.unregister("kept_positions")


def _write(connection: duckdb.DuckDBPyConnection, file: StoredFile, query: str, suffix: str = "") -> Written | None:
    footer = pq.read_metadata(file.path)
    path = file.path.with_name(f"ducklake-{uuid.uuid4()}{suffix}.parquet")
    fields = _fields(connection, file.path)
    options = [f"FIELD_IDS {{{', '.join(field.literal for field in fields)}}}", "RETURN_STATS", "USE_TMP_FILE false"]
    if footer.num_row_groups and footer.num_columns:
        groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
        options.append(f"ROW_GROUP_SIZE {max(group.num_rows for group in groups):d}")
        options.append(f"COMPRESSION {groups[0].column(0).compression.lower()}")
    copy = f"COPY ({query}) TO {quoted(str(path))} (FORMAT parquet, {', '.join(options)})"
    found = connection.execute(copy).fetchone()
    if found is None or found[1] == 0:
        path.unlink(missing_ok=True)
        return None
    sync_file(path)
    sync_folder(path.parent)
    _, num_rows, num_bytes, footer_bytes, stats, _ = found
    ids = {name: field_id for field in fields for name, field_id in field.ids.items()}
    columns = tuple(_stats(ids[name], column) for name, column in stats.items())
    return Written(path, num_rows, num_bytes, footer_bytes, columns)


@dataclass(frozen=True)
class _Field:
    """A column with its id, and the ids of what it holds: `literal` as COPY takes them, `ids` by path in its statistics."""

    literal: str
    ids: dict[str, int]


def _fields(connection: duckdb.DuckDBPyConnection, path: Path) -> list[_Field]:
    query = "SELECT name, field_id, coalesce(num_children, 0) FROM parquet_schema(?)"
    nodes = iter(connection.execute(query, [str(path)]).fetchall())
    _, _, num_columns = next(nodes)

    def read(prefix: str) -> list[_Field]:
        name, field_id, num_children = next(nodes)
        own = field_id not in _NO_FIELD  # a list's repeated group has no id, and no name in a path
        place = f'{prefix}"{name}"' if own else prefix.removesuffix(".")
        children = [field for _ in range(num_children) for field in read(f"{place}.")]
        if not own:
            return children
        inner = ", ".join([f"__duckdb_field_id: {field_id:d}", *(child.literal for child in children)])
        escaped = name.replace('"', '""')
        literal = f'"{escaped}": {{{inner}}}' if children else f'"{escaped}": {field_id:d}'
        return [_Field(literal, {place: field_id} | {k: v for child in children for k, v in child.ids.items()})]

    return [field for _ in range(num_columns) for field in read("")]


def _stats(column_id: int, found: dict[str, str]) -> ColumnStats:
    numbers = {name: int(found[name]) if name in found else None for name in ("column_size_bytes", "num_values", "null_count")}
    num_values, null_count = numbers["num_values"], numbers["null_count"]
    return ColumnStats(
        column_id,
        numbers["column_size_bytes"],
        None if num_values is None else num_values - (null_count or 0),
        null_count,
        found.get("min"),
        found.get("max"),
        {"true": True, "false": False}.get(found.get("has_nan", "")),
    )
