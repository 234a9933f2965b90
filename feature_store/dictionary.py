"""docs/dictionary.md, rendered from the declared tables and columns: `python -m feature_store.dictionary > docs/dictionary.md`.

What belongs here: the page. What a column is, is declared in columns.py; a test fails when the committed page is another.
"""

import sys

from feature_store.columns import Column
from feature_store.tables import ALL_TABLES, COHORT_TABLES, DERIVED_TABLES, MODEL_TABLES, Table

_ROLES = {
    "key": "identifies, groups or selects rows",
    "baseline": "known at time zero (where known at says nothing else): what a model may see",
    "outcome": "what is predicted, or how well; a training view refuses it as a feature",
    "post_treatment": "known after treatment began; a training view refuses it",
    "provenance": "where a row came from",
}
_PARTS = (
    ("Tables of a cohort", "Replaced as a whole when a cohort is published (`cohort` is the scope).", COHORT_TABLES),
    (
        "Derived tables",
        "What encoders make of a cohort's published rows; a row whose source changed goes with it.",
        DERIVED_TABLES,
    ),
    ("Tables of a model", "Replaced as a whole when a model version's predictions are published.", MODEL_TABLES),
    ("Bookkeeping", "", tuple(table for table in ALL_TABLES if table not in (*COHORT_TABLES, *DERIVED_TABLES, *MODEL_TABLES))),
)


def render() -> str:
    """Return the page."""
    lines = [
        "# Data dictionary",
        "",
        "Every table and column of the store. Made from `feature_store/columns.py` and `tables.py` by",
        "`python -m feature_store.dictionary > docs/dictionary.md`: change the declarations, not this page. The same texts are",
        "the comments that SQL shows (`duckdb_columns()`); views and macros are in [sql.md](sql.md).",
        "",
        "A column is required unless its type ends in `?` (then it may be NULL). *Known at* is when its value exists, relative",
        "to the cohort's time zero.",
        "",
        *_table(("role", "meaning"), [(f"`{role}`", meaning) for role, meaning in _ROLES.items()]),
    ]
    for title, text, tables in _PARTS:
        lines += ["", f"## {title}", *(["", text] if text else [])]
        for table in tables:
            lines += _section(table)
    return "\n".join(lines) + "\n"


def _section(table: Table) -> list[str]:
    key = f"Key: {', '.join(f'`{name}`' for name in table.key)}." if table.key else "No key."
    headers = ("column", "type", "unit", "role", "known at", "allowed", "description")
    return [
        "",
        f"### {table.name}",
        "",
        f"One row per {table.grain}. {key}",
        "",
        *_table(headers, [_row(column) for column in table.columns]),
    ]


def _row(column: Column) -> tuple[str, ...]:
    kind = f"{column.sql_type}{'' if column.is_required else '?'}"
    return (f"`{column.name}`", kind, column.unit, column.role, column.known_at, _allowed(column), column.description)


def _allowed(column: Column) -> str:
    if column.allowed:
        return ", ".join(f"`{value}`" for value in column.allowed)
    bounds = ((column.minimum, "at least"), (column.maximum, "at most"))
    return ", ".join(f"{word} {bound:g}" for bound, word in bounds if bound is not None)


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    escaped = [[cell.replace("|", r"\|").replace("<", "&lt;") for cell in row] for row in rows]
    return [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}", *(f"| {' | '.join(row)} |" for row in escaped)]


if __name__ == "__main__":
    sys.stdout.buffer.write(render().encode())  # UTF-8, whatever the terminal
