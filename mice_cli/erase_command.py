"""`mice erase`: the plan, the question, the progress and the proof of erasing a case. Arguments and printing only."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.lineage_command import Form
from mice_cli.show import failing, home_of, one_line
from mice_cli.verify_command import progress_bar

if TYPE_CHECKING:
    from feature_store.erase.execute import Erased
    from feature_store.erase.plan import Plan
    from feature_store.home import Home

_NAMED = 10  # of a kind of file; JSON has all


def erase(
    case: Annotated[str, typer.Argument(help="Case identifier, as in the table cases.")],
    plan: Annotated[bool, typer.Option("--plan", help="Show what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody can be asked.")] = False,
    home: Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")] = None,
    form: Annotated[Form, typer.Option("--format", help="Lines for people, or JSON alone.")] = Form.tree,
) -> None:
    """Erase a case from every snapshot, bag, cache, model folder and log; exit with 1 if anything still names it."""
    from feature_store.erase.execute import erase_case
    from feature_store.erase.plan import plan_erasure
    from feature_store.progress import log_to_stderr

    log_to_stderr()
    place = home_of(home)
    with failing(), progress_bar() as on_progress:
        found = plan_erasure(place, case, on_progress)
    if form is Form.tree:
        for line in _plan_lines(place, found):
            typer.echo(one_line(line))
    if plan:
        typer.echo(json.dumps(_plan_figures(place, found)))
        return
    if not yes:
        if not sys.stdin.isatty():
            typer.echo("error: erasing cannot be undone, expected --yes where nobody can be asked. See --plan first.", err=True)
            raise typer.Exit(2)
        typer.confirm("Erase all of this? It cannot be undone", abort=True, err=True)
    with failing(), progress_bar() as on_progress:
        done = erase_case(place, case, found, on_progress)
    if form is Form.tree:
        proof = done.proof
        typer.echo(f"read {proof.num_files} files, {proof.num_bytes:,} bytes, raw and decoded: {len(proof.hits)} name the case")
        for hit in (*proof.hits, *proof.unreadable):
            typer.echo(one_line(f"left: {hit.path}: {hit.where}"))
    typer.echo(json.dumps(_figures(place, done)))
    if not done.proof.is_clean:
        raise typer.Exit(1)


def _plan_lines(home: "Home", plan: "Plan") -> list[str]:
    also = f" (also {', '.join(plan.names[1:])})" if len(plan.names) > 1 else ""
    rows = ", ".join(f"{table} {count}" for table, count in sorted(plan.num_rows.items())) or "none"
    mentions = ", ".join(f"{table} {count}" for table, count in sorted(plan.num_mentions.items())) or "none"
    lines = [
        f"case {plan.names[0]}{also}{', erased before' if plan.is_erased_already else ''}",
        f"rows that go, in the files of {plan.num_snapshots} snapshots: {rows}",
        f"other rows in which it is redacted: {mentions}",
        f"bags: {plan.num_bags} in {len(plan.shards)} shards, which are written again without them",
        f"cached files, all removed: {plan.num_cached}",
        f"files made of its slides (embeddings, pictures, marks), removed: {len(plan.embedded)}",
    ]
    kinds = {
        "staged cohorts, removed": [str(path.relative_to(home.root)) for path in plan.staged],
        "pages that explain its predictions, removed": [str(path.relative_to(home.root)) for path in plan.explained],
        "other files, redacted": [str(path.relative_to(home.root)) for path in plan.others],
        "models that saw it or may have, to be trained again": list(plan.models),
        "sources that still name it, outside the store and not touched": list(plan.sources),
    }
    if plan.num_unmarked:
        lines.append(f"embedded slides that nobody can tell whose they are: {plan.num_unmarked} (see mice doctor)")
    for kind, names in kinds.items():
        lines.append(f"{kind}: {len(names) or 'none'}")
        lines += [f"  {name}" for name in names[:_NAMED]]
        lines += [f"  and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return lines


def _plan_figures(home: "Home", plan: "Plan") -> dict[str, object]:
    return {
        "rows": plan.num_rows,
        "mentions": plan.num_mentions,
        "snapshots": plan.num_snapshots,
        "bags": plan.num_bags,
        "shards": [shard.path.name for shard in plan.shards],
        "staged": [str(path.relative_to(home.root)) for path in plan.staged],
        "cached": plan.num_cached,
        "embedded": len(plan.embedded),
        "unmarked": plan.num_unmarked,
        "explained": [str(path.relative_to(home.root)) for path in plan.explained],
        "others": [str(path.relative_to(home.root)) for path in plan.others],
        "models": list(plan.models),
        "sources": list(plan.sources),
        "erased_before": plan.is_erased_already,
    }


def _figures(home: "Home", done: "Erased") -> dict[str, object]:
    left = [f"{hit.path}: {hit.where}" for hit in (*done.proof.hits, *done.proof.unreadable)]
    return {
        "hits": len(done.proof.hits),
        "unreadable": len(done.proof.unreadable),
        "left": left,
        "files_read": done.proof.num_files,
        "bytes_read": done.proof.num_bytes,
        "seconds": round(done.seconds, 1),
        "plan": _plan_figures(home, done.plan),
    }
