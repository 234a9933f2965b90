"""The store's SQL by name: views and macros for analysts (`view_*.sql`, `macro_*.sql`) and the questions users ask (all others).

What belongs here: one `.sql` file per query; header.py reads them, allowed.py lists what else an analyst may call. Nothing here
runs SQL (feature_store/analyst.py does) or knows another package of the platform.
"""

from functools import cache
from importlib.resources import files

from sql.header import Field, Kind, NamedQuery, NamedQueryError, Parameter, kind_and_name, listed, parse

__all__ = ["Field", "Kind", "NamedQuery", "NamedQueryError", "Parameter", "definitions", "load", "names", "parse"]


def names(kind: Kind = "query") -> tuple[str, ...]:
    """Return the names of one kind, sorted."""
    stems = sorted(entry.name.removesuffix(".sql") for entry in files(__name__).iterdir() if entry.name.endswith(".sql"))
    found = [kind_and_name(stem) for stem in stems]
    return tuple(name for found_kind, name in found if found_kind == kind)


@cache
def load(name: str, kind: Kind = "query") -> NamedQuery:
    """Read one file. Raises NamedQueryError if there is none of that name, or its header does not hold what it must."""
    known = names(kind)
    if name not in known:
        raise NamedQueryError(f"{kind} {name}: not found, expected {listed(known)}. See `mice sql --list`.")
    stem = name if kind == "query" else f"{kind}_{name}"
    return parse(stem, files(__name__).joinpath(f"{stem}.sql").read_text(encoding="utf-8"))


def definitions() -> list[NamedQuery]:
    """Return the views, then the macros, in an order in which each can be made: a view names only views before it."""
    return [*(load(name, "view") for name in names("view")), *(load(name, "macro") for name in names("macro"))]
