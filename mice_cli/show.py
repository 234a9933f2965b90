"""What the operations commands share: the home, errors as one line, and tables that are plain where nobody watches."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from feature_store.home import Home


def home_of(folder: Path | None) -> "Home":
    """Return the home that `--home` or the environment names."""
    from feature_store.home import Home

    return Home.from_environment(folder)


@contextmanager
def failing() -> Iterator[None]:
    """Print a named failure as one line and exit with 2, as `mice sql` does."""
    from feature_store.errors import MiceError

    try:
        yield
    except MiceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows: a table on a terminal, aligned columns otherwise."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        for row in (headers, *cells):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo(line.rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for header in headers:
        table.add_column(Text(header))
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def one_line(text: str) -> str:
    """Return a text without control characters: names and values come from outside."""
    return "".join(character if character.isprintable() else " " for character in text)
