"""What must follow from a case's going in every version of a table: published hashes, and places in rows by feature.

What belongs here: questions to old snapshots, asked before anything is changed. Both are found by a file's first snapshot, or a
row's own in a compacted file.
"""

import bisect
from collections.abc import Collection, Iterable, Sequence

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from feature_store.erase.history import StoredFile
from feature_store.erase.rewriting import columns_of, scanned
from feature_store.erase.rows import SNAPSHOT, Changes, Positions, rule_of
from feature_store.errors import ErasureError
from feature_store.lake import at
from feature_store.publish import Write, content_sha256
from feature_store.tables import BY_NAME, PUBLICATIONS, Table


class Versions:
    """The old versions of a store's tables, through a connection that `rows.prepare` has seen."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, snapshot_ids: Sequence[int]) -> None:
        self._connection = connection
        self._snapshot_ids = snapshot_ids
        self._places: dict[tuple[str, int], dict[tuple[str, str], tuple[list[int], int]]] = {}

    def positions(self, table: Table, files: Iterable[StoredFile]) -> Positions:
        """Return where the person's values are in the rows of a table by feature, for every snapshot that its files name.

        Raises ErasureError for a file of which no snapshot can say whose its values are.
        """
        found: Positions = {}
        for file in files:
            source = scanned([file.path])
            query = f"SELECT DISTINCT cohort, panel_id, {self._version(file, source)} FROM {source} ORDER BY ALL"
            for cohort, panel_id, begin in self._connection.execute(query).fetchall():
                snapshot_id = self._readable(begin, file.end)
                if snapshot_id is None:
                    raise ErasureError(_unreadable(table, file))
                found[cohort, panel_id, begin] = self._in_order(table.derived_from, snapshot_id).get((cohort, panel_id), ([], 0))
        return found

    def contents(
        self, files: Iterable[StoredFile], touched: Collection[str], changes: Changes
    ) -> dict[tuple[str, str, str], tuple[str, int]]:
        """Return (scope, table, published hash) -> (hash, number of rows) of the same rows without the person.

        `files`: those of the table publications; `touched`: the tables that change. Rows that are not what was published, by this
        version's hash, keep their record, so that `mice verify` goes on to find them.
        """
        found: dict[tuple[str, str, str], tuple[str, int]] = {}
        for file in files:
            source = scanned([file.path])
            query = f"SELECT DISTINCT scope, table_name, content_sha256, {self._version(file, source)} FROM {source} ORDER BY ALL"
            for scope, name, digest, begin in self._connection.execute(query).fetchall():
                snapshot_id = self._readable(begin, file.end)
                if name not in touched or name not in BY_NAME or (scope, name, digest) in found or snapshot_id is None:
                    continue
                new = self._content(BY_NAME[name], scope, digest, snapshot_id, changes)
                if new is not None:
                    found[scope, name, digest] = new
        return {key: new for key, new in found.items() if new[0] != key[2]}

    def _content(self, table: Table, scope: str, digest: str, snapshot_id: int, changes: Changes) -> tuple[str, int] | None:
        query = f'SELECT * FROM {at(table.name, snapshot_id)} WHERE "{table.scope}" = ?'
        rows = self._connection.execute(query, [scope]).to_arrow_table()
        before = pl.DataFrame(rows, schema_overrides=dict(table.schema))
        if not set(table.schema) <= set(before.columns) or content_sha256(Write(table, scope, before)) != digest:
            return None
        # without the vectors, which take DuckDB and Arrow 15 s a gigabyte between them
        vectors = [name for name, kind in before.schema.items() if kind == pl.List(pl.Float32)]
        others = rows.drop_columns(vectors).append_column("_row", pa.array(np.arange(before.height)))
        at_version = self._at(table, snapshot_id, changes)
        self._connection.register("published_rows", others)
        try:
            rule = rule_of(table.name, columns_of(self._connection, "published_rows"), at_version, snapshot_id)
            kept = pl.DataFrame(self._connection.execute(rule.select("published_rows")).to_arrow_table())
        finally:
            self._connection.unregister("published_rows")
        after = pl.concat([kept.drop("_row"), before[kept["_row"]].select(vectors)], how="horizontal")
        for (cohort, panel_id, _), (places, _) in at_version.positions.get(table.name, {}).items():
            after = _without(after, cohort, panel_id, places)
        return content_sha256(Write(table, scope, after)), after.height

    def _at(self, table: Table, snapshot_id: int, changes: Changes) -> Changes:
        """Return the changes as they are for one version read through the lake."""
        if not table.derived_from:
            return changes
        places = self._in_order(table.derived_from, snapshot_id)
        at_version = {(cohort, panel, snapshot_id): found for (cohort, panel), found in places.items()}
        return Changes(changes.bags, changes.contents, {table.name: at_version})

    def _in_order(self, table: str, snapshot_id: int) -> dict[tuple[str, str], tuple[list[int], int]]:
        """Return (cohort, panel) -> (the person's places among the cases in order of case_id, number of cases)."""
        if (table, snapshot_id) not in self._places:
            rows = self._connection.execute(
                "SELECT cohort, panel_id, coalesce(list(place ORDER BY place) FILTER (is_erased(case_id)), []), count(*) FROM ("
                "SELECT cohort, panel_id, case_id, row_number() OVER (PARTITION BY cohort, panel_id ORDER BY case_id) AS place "
                f"FROM {at(table, snapshot_id)}) GROUP BY cohort, panel_id"
            ).fetchall()
            self._places[table, snapshot_id] = {(cohort, panel): (places, count) for cohort, panel, places, count in rows}
        return self._places[table, snapshot_id]

    def _version(self, file: StoredFile, source: str) -> str:
        """Return the SQL of the snapshot that a row of a file came with."""
        return f'"{SNAPSHOT}"' if SNAPSHOT in columns_of(self._connection, source) else f"{file.begin:d}"

    def _readable(self, begin: int, end: int | None) -> int | None:
        """Return the first snapshot from `begin` on that is still there, if it is before `end`."""
        index = bisect.bisect_left(self._snapshot_ids, begin)
        if index == len(self._snapshot_ids) or (end is not None and self._snapshot_ids[index] >= end):
            return None
        return self._snapshot_ids[index]


def _without(rows: pl.DataFrame, cohort: str, panel_id: str, places: Sequence[int]) -> pl.DataFrame:
    """Return rows by feature without the values at `places`, 1-based."""
    values = pl.col("values")
    for place in sorted(places, reverse=True):
        values = pl.concat_list(values.list.head(place - 1), values.list.slice(place))
    is_of = (pl.col("cohort") == cohort) & (pl.col("panel_id") == panel_id)
    return rows.with_columns(values=pl.when(is_of).then(values).otherwise("values")) if places else rows


def _unreadable(table: Table, file: StoredFile) -> str:
    return (
        f"table {table.name}, file {file.path.name}: no snapshot from {file.begin} on reads it, expected one that says which "
        "cases its values are of. Remove files that no snapshot reads (`mice maintain`), then erase again."
    )


def publications_of(files: Iterable[StoredFile]) -> list[StoredFile]:
    """Return the files of the table publications."""
    return [file for file in files if file.table == PUBLICATIONS.name]
