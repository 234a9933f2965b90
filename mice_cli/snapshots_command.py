"""`mice snapshots` and `mice diff`: the store's commits, and what differs between two. Arguments and printing only."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mice_cli.show import failing, home_of, print_table

_MAX_NAMED = 3  # identifiers in a cell; JSON gives all


class Form(StrEnum):
    """How the result is printed."""

    table = "table"
    json = "json"


HomeOption = Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")]
FormOption = Annotated[Form, typer.Option("--format", help="A table for people, or JSON.")]


def snapshots(home: HomeOption = None, form: FormOption = Form.table) -> None:
    """List the store's snapshots: when, what was published, and whether a model was trained on it."""
    from feature_store.snapshots import list_snapshots

    with failing():
        found = list_snapshots(home_of(home))
    if form is Form.json:
        typer.echo(json.dumps([asdict(one) | {"is_pinned": bool(one.pinned_by)} for one in found], indent=1))
        return
    rows = [
        (str(one.snapshot_id), one.committed_at, one.message, one.kind, one.subject, _named(one.pinned_by) or "-")
        for one in found
    ]
    print_table(("id", "time", "message", "kind", "of", "pinned by"), rows)


def diff(
    before: Annotated[int, typer.Argument(help="Snapshot id.")],
    after: Annotated[int, typer.Argument(help="Snapshot id to compare with it.")],
    home: HomeOption = None,
    form: FormOption = Form.table,
) -> None:
    """Show what differs between two snapshots: cases added, gone and changed per table and cohort, and columns."""
    from feature_store.snapshots import diff_snapshots

    with failing():
        found = diff_snapshots(home_of(home), before, after)
    if form is Form.json:
        typer.echo(json.dumps(asdict(found), indent=1))
        return
    for what, names in (("column added", found.columns_added), ("column gone", found.columns_gone)):
        for name in names:
            typer.echo(f"{what}: {name}")
    if not found.scopes:
        typer.echo(f"snapshots {before} and {after}: every row is the same.")
        return
    rows = [
        (
            *(one.table, one.scope, one.entity, str(one.num_rows_before), str(one.num_rows_after)),
            *(f"{len(ids)} ({_named(ids)})" if ids else "0" for ids in (one.added, one.gone, one.changed)),
        )
        for one in found.scopes
    ]
    print_table(("table", "of", "by", "rows before", "rows after", "added", "gone", "changed"), rows)


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (", …" if len(names) > _MAX_NAMED else "")
