"""Snapshots: what each commit was about and who holds on to it, and what differs between two of them.

What belongs here: reading. Making a snapshot is publish.py's business; how a result is printed is mice_cli's.
"""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb

from feature_store.errors import SnapshotMissingError
from feature_store.home import Home
from feature_store.lake import Lake, at
from feature_store.pins import list_pins
from feature_store.publish import COHORT_MESSAGE, REPORTS_MESSAGE
from feature_store.tables import COHORT_TABLES, DERIVED_TABLES, MODEL_TABLES, PUBLICATIONS, Table

logger = logging.getLogger(__name__)

# What a writer's commit message says of its subject (publish.py and the training service write these).
_SUBJECTS = (
    ("cohort", re.compile(rf"{COHORT_MESSAGE} (.+)")),
    ("reports", re.compile(rf"{REPORTS_MESSAGE} (.+)")),
    ("model", re.compile(r"publish predictions of (.+)")),
)
# Tables without case_id are compared by their key; quarantine has none and names the case as found.
_ENTITIES = {"quarantine": ("table_name", "case_id_found")}


@dataclass(frozen=True)
class SnapshotInfo:
    """One commit: `kind` (cohort, reports, model or other) and `subject` say what it published.

    `pinned_by` names its pins (`pin <name>`), the model versions that were trained on it, or whose published rows name it.
    """

    snapshot_id: int
    committed_at: str
    message: str
    kind: str
    subject: str
    pinned_by: tuple[str, ...]


@dataclass(frozen=True)
class ScopeDiff:
    """What differs in one table for one cohort (or model version); `added`, `gone` and `changed` hold sorted identifiers.

    `entity` says what is identified: a case, or for a table without cases the rest of its key.
    """

    table: str
    scope: str
    entity: str
    num_rows_before: int
    num_rows_after: int
    added: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotDiff:
    """All that differs between two snapshots; columns as `table.column TYPE`. No entry where nothing differs."""

    before: int
    after: int
    columns_added: tuple[str, ...]
    columns_gone: tuple[str, ...]
    scopes: tuple[ScopeDiff, ...]


def list_snapshots(home: Home) -> list[SnapshotInfo]:
    """Return all commits, oldest first."""
    lake, pins = Lake(home), pinned_by(home)
    found = []
    for snapshot in lake.snapshots():
        matches = [(kind, match[1]) for kind, pattern in _SUBJECTS if (match := pattern.fullmatch(snapshot.message))]
        kind, subject = matches[0] if matches else ("other", "")
        pins_here = tuple(sorted(pins.get(snapshot.snapshot_id, ())))
        found.append(SnapshotInfo(snapshot.snapshot_id, snapshot.committed_at, snapshot.message, kind, subject, pins_here))
    return found


def pinned_by(home: Home) -> dict[int, set[str]]:
    """Return snapshot id -> who holds on to it: pins by name, models by their plans and by the rows the store has of them."""
    pins: dict[int, set[str]] = {}
    for pin in list_pins(Lake(home)):
        pins.setdefault(pin.snapshot_id, set()).add(f"pin {pin.name}")
    for path in sorted(home.models.glob("*/plan.json")):
        try:
            pins.setdefault(int(json.loads(path.read_text(encoding="utf-8"))["snapshot_id"]), set()).add(path.parent.name)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s: not a plan (%r), its pin is unknown; see mice verify", path, error)
    with Lake(home).reader() as connection:
        known = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        for table in MODEL_TABLES:
            if table.name in known:
                rows = connection.execute(f'SELECT DISTINCT snapshot_id, model_version FROM "{table.name}"').fetchall()
                for snapshot_id, version in rows:
                    pins.setdefault(snapshot_id, set()).add(version)
    return pins


def diff_snapshots(home: Home, before: int, after: int) -> SnapshotDiff:
    """Compare the declared tables row by row, over the columns both have: all but those about writes, and derived ones.

    Raises SnapshotMissingError where one of the two is not there.
    """
    lake = Lake(home)
    old, new = _columns(lake, before), _columns(lake, after)
    listed = [{f"{table}.{name} {kind}" for table, found in side.items() for name, kind in found.items()} for side in (old, new)]
    scopes: list[ScopeDiff] = []
    with lake.reader(max(before, after)) as connection:
        for table in (*COHORT_TABLES, *DERIVED_TABLES, *MODEL_TABLES):
            sides = old.get(table.name, {}), new.get(table.name, {})
            if any(sides) and not table.derived_from:  # one changed case would change every row of those
                scopes += _diff_table(connection, table, (before, after), sides)
    added, gone = tuple(sorted(listed[1] - listed[0])), tuple(sorted(listed[0] - listed[1]))
    return SnapshotDiff(before, after, added, gone, tuple(scopes))


def _columns(lake: Lake, snapshot_id: int) -> dict[str, dict[str, str]]:
    """Return table -> column -> type of one snapshot, of the tables that a diff covers."""
    if snapshot_id < 1:
        raise SnapshotMissingError(f"snapshot {snapshot_id}: expected the id of a commit with tables. See `mice snapshots`.")
    with lake.reader(snapshot_id) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() "
            "WHERE database_name = 'lake' AND table_name <> ? ORDER BY table_name, column_index",
            [PUBLICATIONS.name],
        ).fetchall()
    columns: dict[str, dict[str, str]] = {}
    for table, name, kind in rows:
        columns.setdefault(table, {})[name] = kind
    return columns


def _diff_table(
    connection: duckdb.DuckDBPyConnection, table: Table, ids: tuple[int, int], sides: tuple[dict[str, str], dict[str, str]]
) -> Iterator[ScopeDiff]:
    """Compare a table scope by scope, so that only one cohort's vectors are in memory at a time."""
    common = [name for name, kind in sides[0].items() if sides[1].get(name) == kind] if all(sides) else list(sides[0] or sides[1])
    names = _ENTITIES.get(table.name) or (
        ("case_id",) if "case_id" in common else tuple(name for name in table.key if name != table.scope)
    )
    if table.scope not in common or not set(names) <= set(common):
        return  # another type of a key column: the columns' own differences say so
    wanted = ", ".join(f'"{name}"' for name in common)
    entity = " || ' ' || ".join(f"coalesce(\"{name}\"::VARCHAR, '')" for name in names)
    # a table that one side has not: the other side's, without its rows
    sources = [
        at(table.name, snapshot_id) if side else f"(FROM {at(table.name, other)} LIMIT 0)"
        for snapshot_id, other, side in zip(ids, reversed(ids), sides, strict=True)
    ]
    versions = [f"SELECT {wanted} FROM {source}" for source in sources]
    scopes = connection.execute(
        f'SELECT scope, sum(side = 0), sum(side = 1) FROM (SELECT "{table.scope}" AS scope, 0 AS side FROM {sources[0]} '
        f'UNION ALL SELECT "{table.scope}", 1 FROM {sources[1]}) GROUP BY scope ORDER BY scope'
    ).fetchall()
    for scope, num_before, num_after in scopes:
        rows = connection.execute(
            f"""
            WITH old AS MATERIALIZED (SELECT {entity} AS entity_id, * FROM ({versions[0]}) WHERE "{table.scope}" = $scope),
            new AS MATERIALIZED (SELECT {entity} AS entity_id, * FROM ({versions[1]}) WHERE "{table.scope}" = $scope),
            differing AS (
                SELECT entity_id FROM (FROM old EXCEPT ALL FROM new) UNION SELECT entity_id FROM (FROM new EXCEPT ALL FROM old)
            )
            SELECT entity_id, entity_id IN (SELECT entity_id FROM old), entity_id IN (SELECT entity_id FROM new)
            FROM differing ORDER BY 1
            """,
            {"scope": scope},
        ).fetchall()
        if rows:
            yield ScopeDiff(
                table.name,
                scope,
                " ".join(names),
                int(num_before),
                int(num_after),
                added=tuple(name for name, was, _ in rows if not was),
                gone=tuple(name for name, _, is_there in rows if not is_there),
                changed=tuple(name for name, was, is_there in rows if was and is_there),
            )
