"""Writing the whole history of the tables without the person: every new file, and the record's change that names them.

What belongs here: the order in which rows.py, versions.py and rewriting.py are asked. The caller is alone with the store.
"""

from collections.abc import Mapping

import duckdb

from feature_store.bag_record import BagRecord
from feature_store.erase.history import Edit, StoredFile, by_table, snapshot_ids, stored_files
from feature_store.erase.identity import Identity
from feature_store.erase.plan import OnProgress
from feature_store.erase.rewriting import (
    columns_of,
    count_rows,
    positions_gone,
    readable_files,
    rewrite,
    rewrite_positions,
    scanned,
)
from feature_store.erase.rows import Changes, Rule, prepare, rule_of
from feature_store.erase.versions import Versions, publications_of
from feature_store.lake import Lake
from feature_store.tables import BY_NAME, PUBLICATIONS


def write_without_rows(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    identity: Identity,
    bags: Mapping[tuple[str, str], BagRecord],
    on_progress: OnProgress,
) -> Edit:
    """Write the successors of all table files that hold the person, in any snapshot; nothing names them yet.

    `bags`: (slide_id, shard) -> the record in the shard's successor. Raises ErasureError, and leaves no new file, for what cannot
    be rewritten.
    """
    with readable_files():
        return _write_all(connection, lake, identity, bags, on_progress)


def _write_all(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    identity: Identity,
    bags: Mapping[tuple[str, str], BagRecord],
    on_progress: OnProgress,
) -> Edit:
    prepare(connection, identity)
    data, deletes = stored_files(lake.catalog, lake.home)
    changes = Changes(bags=dict(bags))
    versions = Versions(connection, snapshot_ids(lake.catalog))
    for name, files in by_table(data).items():
        table = BY_NAME.get(name)
        if table is not None and table.derived_from:
            changes.positions[name] = versions.positions(table, files)
    others = [file for file in data if file.table != PUBLICATIONS.name]
    rules = _rules(connection, others, changes)
    changes.contents = versions.contents(publications_of(data), {file.table for file in rules}, changes)
    rules |= _rules(connection, publications_of(data), changes)
    edit = Edit()
    try:
        for done, (file, rule) in enumerate(rules.items()):
            on_progress("tables", done, len(rules))
            edit.data[file] = rewrite(connection, file, rule)
        by_id = {file.file_id: file for file in rules}
        for deleted in deletes:
            of_file = by_id.get(deleted.of_data_file or 0)
            written = edit.data[of_file] if of_file is not None else None
            if of_file is None:
                continue
            gone = positions_gone(connection, of_file, rules[of_file])
            edit.deletes[deleted] = written and rewrite_positions(connection, deleted, written.path, gone)
    except BaseException:
        for path in edit.paths:
            path.unlink(missing_ok=True)
        raise
    on_progress("tables", len(rules), len(rules))
    return edit


def _rules(connection: duckdb.DuckDBPyConnection, files: list[StoredFile], changes: Changes) -> dict[StoredFile, Rule]:
    """Return the rule of every file in which it removes or changes a row."""
    found = {}
    for file in files:
        rule = rule_of(file.table, columns_of(connection, scanned([file.path])), changes, file.begin)
        if count_rows(connection, [file.path], rule):
            found[file] = rule
    return found
