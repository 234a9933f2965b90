"""`mice pin`, `mice unpin`, `mice maintain`: what is kept, and removing what nobody needs. Arguments and printing only."""

import json
from typing import Annotated

import typer

from mice_cli.show import failing, home_of
from mice_cli.snapshots_command import HomeOption


def pin(
    name: Annotated[str, typer.Argument(help="Name of the pin: small letters, digits, `.`, `-`, `_`.")],
    snapshot: Annotated[int | None, typer.Argument(help="Snapshot id (default: the newest).")] = None,
    reason: Annotated[str, typer.Option(help="Why it is kept.")] = "",
    home: HomeOption = None,
) -> None:
    """Name a snapshot and keep it, with all it needs, until it is unpinned."""
    from feature_store.lake import Lake
    from feature_store.pins import pin as pinned

    with failing():
        made = pinned(Lake(home_of(home)), name, snapshot, reason)
    typer.echo(json.dumps(vars(made)))


def unpin(name: Annotated[str, typer.Argument(help="Name of the pin.")], home: HomeOption = None) -> None:
    """Let go of a pinned snapshot; maintenance may expire it then."""
    from feature_store.lake import Lake
    from feature_store.pins import unpin as unpinned

    with failing():
        unpinned(Lake(home_of(home)), name)


def maintain(
    keep_days: Annotated[
        float | None, typer.Option(min=0.0, help="Expire snapshots older than this that nothing pins (default: expire none).")
    ] = None,
    grace_hours: Annotated[float, typer.Option(min=0.0, help="Leave alone what is younger than this.")] = 24.0,
    home: HomeOption = None,
) -> None:
    """Merge small files and remove what no snapshot, pin, reader or staged cohort needs. The last line is one JSON object."""
    from feature_store.maintenance import maintain as maintained
    from feature_store.progress import log_to_stderr

    log_to_stderr()
    with failing():
        done = maintained(home_of(home), keep_days=keep_days, grace_s=grace_hours * 3600)
    removed = {
        "table_files": done.removed_table_files,
        "shards": done.removed_shards,
        "leftovers": done.removed_leftovers,
    }
    for kind, paths in removed.items():
        for path in paths:
            typer.echo(f"removed {kind}: {path}")
    if done.is_deferred:
        typer.echo("the store is being read: files that no snapshot needs stay until the next time")
    counts = {kind: len(paths) for kind, paths in removed.items()} | {"cache_files": done.num_removed_cache_files}
    figures = {"merged_files": done.num_merged_files, "expired": list(done.expired), "removed": counts}
    typer.echo(json.dumps({**figures, "deferred": done.is_deferred}))
