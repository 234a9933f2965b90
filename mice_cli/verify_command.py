"""`mice verify`: is everything the store names there and unharmed? Arguments, the progress bar and printing only."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mice_cli.show import failing, home_of, one_line

if TYPE_CHECKING:
    from feature_store.verify_finding import OnProgress


def verify(
    home: Annotated[Path | None, typer.Option("--home", help="The installation's folder (default: MICE_HOME or .mice).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Existence, sizes and bounds only; reads no values.")] = False,
) -> None:
    """Check every table, bag and model of the store; exit with 1 if anything is wrong. The last line is one JSON object."""
    from feature_store.verify import verify as verified

    with failing(), progress_bar() as on_progress:
        report = verified(home_of(home), is_quick=quick, on_progress=on_progress)
    for title, findings in (("problem", report.problems), ("note", report.notes)):
        for finding in findings:
            typer.echo(f"{title}: {one_line(str(finding))}")
    typer.echo(json.dumps(report.counts))
    if report.problems:
        raise typer.Exit(1)


@contextmanager
def progress_bar() -> Iterator["OnProgress"]:
    """Yield what the checks report to: a bar on a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield on_progress
