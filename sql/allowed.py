"""What an analyst's SELECT may call in its FROM, beside tables, views and macros, and finding what it calls.

Belongs here: the list, and the walk over DuckDB's own parse tree (`json_serialize_sql`). Refusing is feature_store/analyst.py's.
"""

import json
import re
from collections.abc import Iterator

# Table functions that change nothing and open no file, or open files through DuckDB's own file system, which obeys
# allowed_directories. Left out on purpose: sqlite_scan and sqlite_query (open any SQLite file), read_text, read_blob and read_csv
# (the catalog file counts as allowed), query and json_execute_serialized_sql (SQL in a string), arrow_scan (takes pointers), and
# everything of DuckLake that cleans up, merges or sets options.
TABLE_FUNCTIONS = frozenset({
    "range", "generate_series", "unnest", "repeat",
    "histogram", "histogram_values", "json_each", "json_tree",
    "snapshots", "pragma_table_info", "pragma_version",
    "duckdb_tables", "duckdb_columns", "duckdb_views", "duckdb_functions",
    "duckdb_settings", "duckdb_types", "duckdb_keywords", "duckdb_memory",
    "read_parquet", "parquet_scan", "parquet_schema",
    "parquet_metadata", "parquet_file_metadata", "parquet_kv_metadata",
})  # fmt: skip
_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:ANALYZE\s+)?(?:\([\w\s,]*\)\s*)?", re.IGNORECASE)


def explained(query: str) -> str:
    """Return what an EXPLAIN statement explains; something that is no SELECT if it cannot tell."""
    return _EXPLAIN.sub("", query, count=1)


def called(tree: str) -> Iterator[str]:
    """Yield the table functions of a serialized SELECT, at any depth; raise ValueError for a tree that cannot be read."""
    try:
        found = json.loads(tree)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if found["error"]:
        raise ValueError(str(found.get("error_message")))
    pending = [found]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif isinstance(node, dict):
            pending.extend(node.values())
            if node.get("type") == "TABLE_FUNCTION":
                yield str(node["function"]["function_name"]).lower()
