"""`mice sql`: one SELECT, or a named query, against the store; the result as a table, CSV, JSON or Parquet.

What belongs here: arguments, and the limits of this process. What may run is feature_store/analyst.py's business, formats are
sql_output.py's.
"""

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mice_cli.sql_output import WRITERS, Format, waiting
from sql import NamedQueryError, definitions, load, names

_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT])i?B", re.IGNORECASE)
_SLACK_BYTES = 1 << 29  # thread stacks, Arrow's buffers, our own objects


def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT. Parameters as $name, their values with --param.")] = None,
    name: Annotated[str | None, typer.Option(help="A named query instead; --list shows them.")] = None,
    param: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Value of a parameter; repeatable.")] = None,
    format_: Annotated[Format | None, typer.Option("--format", help="Default: by --output's ending, else table.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; Parquet needs one.")] = None,
    home: Annotated[Path | None, typer.Option(help="The installation's folder (default: MICE_HOME or .mice).")] = None,
    snapshot: Annotated[int | None, typer.Option(help="Snapshot id to read (default: the newest).")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which the query is stopped.")] = 60.0,
    memory: Annotated[str, typer.Option(help="Memory cap, for example 4GB.")] = "2GB",
    list_: Annotated[bool, typer.Option("--list", help="Show named queries, views and macros.")] = False,
) -> None:
    """Query the feature store with SQL, read-only. See docs/sql.md."""
    from feature_store.analyst import analyst_connection
    from feature_store.errors import MiceError
    from feature_store.home import Home

    if list_:
        typer.echo(_listing())
        return
    chosen = format_ or (Format(output.suffix[1:]) if output and output.suffix[1:] in list(Format) else Format.table)
    if (query is None) == (name is None):
        _fail("arguments: expected one of a query, --name or --list. See `mice sql --help`.")
    if chosen is Format.parquet and output is None:
        _fail("format parquet: no --output, expected a file. Name one.")
    if (size := _MEMORY.fullmatch(memory)) is None:
        _fail(f"memory cap: {memory}, expected a size such as 500MB or 2GB. Correct it.")
    num_bytes = float(size[1]) * 1024 ** (1 + "KMGT".index(size[2].upper()))
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial") if output else None
    where = Home.from_environment(home)
    try:
        values = _values(param or [])
        text, bound = (query or "", values) if name is None else (load(name).text, load(name).bind(values))
        caps: dict[str, Any] = {"snapshot_id": snapshot, "memory_limit": memory, "timeout_s": timeout}
        with (
            analyst_connection(where, **caps) as analyst,
            _process_limits(int(num_bytes), timeout, partial),
            ExitStack() as running,
        ):
            with waiting(timeout):
                rows = running.enter_context(analyst.stream(text, bound or None))
            if partial is None or output is None:
                WRITERS[chosen](rows, sys.stdout.buffer)
                sys.stdout.flush()
                return
            with partial.open("wb") as file:
                WRITERS[chosen](rows, file)
            partial.replace(output)
    except BrokenPipeError:  # `mice sql ... | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (MiceError, NamedQueryError, OSError) as error:
        _fail(str(error))
    except MemoryError:
        _fail(f"query: over the memory cap of {memory}, expected less. Filter or aggregate earlier, or raise --memory.")
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def _values(pairs: list[str]) -> dict[str, str | float]:
    for pair in pairs:
        if "=" not in pair:
            _fail(f"parameter {pair}: no =, expected KEY=VALUE. Correct it.")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def _listing() -> str:
    found = [*(load(name) for name in names()), *definitions()]
    lines = []
    for entry in found:
        mark = "$" if entry.kind == "query" else ""
        shown = [f"{mark}{p.name}{' (optional)' if p.is_optional else ''}" for p in entry.parameters]
        lines.append(
            f"{entry.kind:<6} {entry.name:<22} {entry.purpose} {'Takes ' + ', '.join(shown) + '.' if shown else ''}".rstrip()
        )
    return "\n".join(lines)


@contextmanager
def _process_limits(memory_bytes: int, timeout_s: float, partial: Path | None) -> Iterator[None]:
    """Bound what DuckDB's own caps miss (one scalar call on a huge string): this process's memory and its life."""

    def give_up() -> None:
        if partial is not None:
            partial.unlink(missing_ok=True)
        os.write(2, f"error: query: did not heed the time cap of {timeout_s:g} s; the process ends. Narrow the query.\n".encode())
        os._exit(2)

    watchdog = threading.Timer(2 * timeout_s, give_up)
    watchdog.daemon = True
    watchdog.start()
    statm = Path("/proc/self/statm")
    try:
        if not statm.is_file():  # not Linux: RLIMIT_DATA does not count mappings there
            yield
            return
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        used = int(statm.read_text(encoding="ascii").split()[5]) * resource.getpagesize()
        given = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min([used + 2 * memory_bytes + _SLACK_BYTES, *given]), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    finally:
        watchdog.cancel()
