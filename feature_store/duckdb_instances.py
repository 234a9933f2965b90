"""DuckDB instances with our extensions loaded, used again within a process: loading them takes 0.3 to 0.5 s each time.

What belongs here: making, lending and taking back instances. What is attached to one is lake.py's. Extensions are loaded by path
from their wheels; nothing is installed at run time and only DuckDB's own signatures are taken.
"""

import importlib.util
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import duckdb

from feature_store.errors import StoreMissingError

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "enable_external_file_cache": False,  # an idle instance would keep what it read in memory; the page cache does as well
}
_MOST_IDLE = 2

_idle: list[tuple[int, tuple[str, ...], duckdb.DuckDBPyConnection]] = []
_lock = threading.Lock()


@contextmanager
def lent(extensions: Sequence[str], *, is_kept: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to an instance that nobody else uses meanwhile; what it attached must be detached at the end.

    The connection's own settings, views and variables end with it. One whose instance is locked down is not to be kept.
    """
    instance = _taken(tuple(extensions)) or _made(extensions)
    is_sound = False
    try:
        with closing(instance.cursor()) as connection:
            yield connection
            is_sound = True
    finally:
        with _lock:
            is_kept = is_kept and is_sound and sum(pid == os.getpid() for pid, _, _ in _idle) < _MOST_IDLE
            if is_kept:
                _idle.append((os.getpid(), tuple(extensions), instance))
        if not is_kept:
            with suppress(duckdb.Error):
                instance.close()


def _taken(extensions: tuple[str, ...]) -> duckdb.DuckDBPyConnection | None:
    with _lock:
        for position, (pid, loaded, instance) in enumerate(_idle):
            if pid == os.getpid() and loaded == extensions:  # one made before a fork has lost its threads
                del _idle[position]
                return instance
    return None


def _made(extensions: Sequence[str]) -> duckdb.DuckDBPyConnection:
    instance = duckdb.connect(":memory:", config=_CONFIG)
    instance.execute("SET GLOBAL TimeZone = 'UTC'")  # snapshot times would otherwise come in the machine's zone
    for extension in extensions:
        instance.execute(f"LOAD {quoted(str(_extension_path(extension)))}")
    return instance


def _extension_path(name: str) -> Path:
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or not spec.submodule_search_locations:
        raise StoreMissingError(
            f"duckdb extension {name}: package duckdb-extension-{name.replace('_', '-')} not installed, expected it beside "
            "duckdb. Run `pip install -c constraints.txt -e .`."
        )
    return min(Path(spec.submodule_search_locations[0]).rglob(f"{name}.duckdb_extension"))


def quoted(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"
