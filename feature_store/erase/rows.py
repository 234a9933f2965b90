"""Which rows of a table are the erased person's and go, and what the others become: as SQL over one file or one version.

What belongs here: the rules. A row with the person's case_id (or alias) goes; a row of a table without case_id goes if the source
it tells of is the person's; in every other row a mention becomes `[erased]`. Files are written by rewriting.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from feature_store.bag_record import BagRecord
from feature_store.duckdb_instances import quoted
from feature_store.erase.identity import ERASED, Identity
from feature_store.tables import BY_NAME

_OF_A_CASE = ("case_id", "alias")
# of tables without case_id, as found: an identifier, and texts
_FOUND_IDS = ("case_id_found",)
_FOUND = ("found", "path")
SNAPSHOT = "_ducklake_internal_snapshot_id"
_PLACE = ("shard", "offset_bytes", "page_crc32")

# A version of a table by feature: cohort, panel_id and snapshot -> (where the person's values are, 1-based; number of values).
Positions = dict[tuple[str, str, int], tuple[list[int], int]]


@dataclass
class Changes:
    """What changes beside the person's own rows, found out on the way.

    `bags`: (slide_id, shard) -> its record in the shard's successor. `contents`: a publication's content hash -> the hash and the
    number of its rows without the person. `positions`: by table.
    """

    bags: dict[tuple[str, str], BagRecord] = field(default_factory=dict)
    contents: dict[tuple[str, str, str], tuple[str, int]] = field(default_factory=dict)
    positions: dict[str, Positions] = field(default_factory=dict)


@dataclass(frozen=True)
class Rule:
    """SQL over the rows of one table: `gone` and `touched` are never NULL; `replaced` is column -> expression."""

    gone: str
    touched: str
    replaced: dict[str, str]

    def select(self, source: str) -> str:
        """Return the query of what stays of the rows of `source`."""
        replaced = ", ".join(f'{expression} AS "{name}"' for name, expression in self.replaced.items())
        return f"SELECT * {f'REPLACE ({replaced})' if replaced else ''} FROM {source} WHERE NOT {self.gone}"


def prepare(connection: duckdb.DuckDBPyConnection, identity: Identity) -> None:
    """Make what the rules call: temporary macros of this connection."""
    for name in ("whole", "named", "mention"):
        connection.execute(f"SET VARIABLE erased_{name} = {quoted(getattr(identity, f'sql_{name}'))}")
    once = f"regexp_replace({{}}, getvariable('erased_mention'), '\\1{ERASED}\\2', 'g')"
    macros = {
        "is_erased(x)": "coalesce(regexp_matches(x, getvariable('erased_whole')), false)",
        "is_named(x)": "coalesce(regexp_matches(x, getvariable('erased_named')), false)",
        "is_mentioned(x)": "coalesce(regexp_matches(x, getvariable('erased_mention')), false)",
        # twice: two mentions may share what stands between them
        "redacted(x)": once.format(once.format("x")),
        "of_length(l, n)": "CASE WHEN n IS NULL OR len(l) = n THEN l ELSE "
        "error('a row by feature has ' || len(l) || ' values for ' || n || ' cases: run mice verify') END",
        "without(l, p)": "CASE WHEN p IS NULL THEN l ELSE list_concat(l[:p - 1], l[p + 1:]) END",
    }
    for signature, body in macros.items():
        connection.execute(f"CREATE OR REPLACE TEMP MACRO {signature} AS {body}")


def rule_of(table: str, columns: Mapping[str, str], changes: Changes, snapshot: int | None = None) -> Rule:
    """Return the rule for rows of a table with `columns` (name -> DuckDB type).

    `snapshot`: the version that the rows are of, where they do not say so themselves (a compacted file's do).
    """
    texts = [name for name, kind in columns.items() if kind == "VARCHAR"]
    lists = [name for name, kind in columns.items() if kind == "VARCHAR[]"]
    gone = [f'is_erased("{name}")' for name in _OF_A_CASE if name in texts]
    if "case_id" not in columns:
        gone += [f'is_named("{name}")' for name in _FOUND_IDS if name in texts]
        gone += [f'is_mentioned("{name}")' for name in _FOUND if name in texts]
    touched = [f'is_mentioned("{name}")' for name in texts] + [f'is_mentioned("{name}"::VARCHAR)' for name in lists]
    replaced = {name: f'redacted("{name}")' for name in texts}
    replaced |= {name: f'list_transform("{name}", lambda x: redacted(x))' for name in lists}
    if {"text", "num_characters"} <= set(columns):
        replaced["num_characters"] = (
            'CASE WHEN is_mentioned("text") THEN length(redacted("text")) ELSE num_characters END::INTEGER'
        )
    if changes.bags and {"slide_id", "shard"} <= set(columns):
        moved = {
            f"{slide_id} {shard}": {name: getattr(record, name) for name in _PLACE}
            for (slide_id, shard), record in changes.bags.items()
        }
        found = f'{_map(moved)}["slide_id" || \' \' || "shard"]'
        touched.append(f"{found} IS NOT NULL")
        replaced |= {name: f'coalesce({found}.{name}, "{name}")' for name in _PLACE}
    if changes.contents and {"scope", "table_name", "content_sha256"} <= set(columns):
        contents = {" ".join(key): {"digest": digest, "num_rows": n} for key, (digest, n) in changes.contents.items()}
        found = f'{_map(contents)}["scope" || \' \' || "table_name" || \' \' || "content_sha256"]'
        touched.append(f"{found} IS NOT NULL")
        replaced["content_sha256"] = f'coalesce({found}.digest, "content_sha256")'
        replaced["num_rows"] = f'coalesce({found}.num_rows, "num_rows")'
    declared = BY_NAME.get(table)
    if declared is not None and declared.derived_from:
        _add_places(changes.positions.get(table, {}), columns, snapshot, gone, touched, replaced)
    return Rule(_any(gone), _any(touched), replaced)


def _add_places(
    positions: Positions,
    columns: Mapping[str, str],
    snapshot: int | None,
    gone: list[str],
    touched: list[str],
    replaced: dict[str, str],
) -> None:
    """Add what a row by feature loses: the person's values, or all of it where they are its only case."""
    named = {f"{cohort} {panel} {version}": found for (cohort, panel, version), found in positions.items() if found[0]}
    if not named:
        return
    version = f'"{SNAPSHOT}"::VARCHAR' if SNAPSHOT in columns else f"'{snapshot}'"
    key = f"\"cohort\" || ' ' || \"panel_id\" || ' ' || {version}"
    found = f"{_map({name: {'places': sorted(places)[::-1], 'num': count} for name, (places, count) in named.items()})}[{key}]"
    if "values" in columns:
        values = f'of_length("values", {found}.num)'
        for number in range(1, max(len(places) for places, _ in named.values()) + 1):
            values = f"without({values}, {found}.places[{number}])"
        replaced["values"] = values
    touched.append(f"{found} IS NOT NULL")
    gone.append(f"coalesce(len({found}.places) = {found}.num, false)")


def _any(terms: list[str]) -> str:
    return f"({' OR '.join(terms) or 'false'})"


def _map(values: Mapping[str, object]) -> str:
    """Return a constant map of SQL."""
    return "MAP {" + ", ".join(f"{quoted(key)}: {_literal(value)}" for key, value in values.items()) + "}"


def _literal(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_literal(one)}" for name, one in value.items()) + "}"
    return quoted(value) if isinstance(value, str) else str(value)
