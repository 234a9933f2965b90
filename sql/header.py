"""A `.sql` file's header and SELECT, read and checked. Which files there are is __init__.py's business; nothing here runs SQL.

    -- purpose: what it answers
    -- grain: what a row is
    -- parameters: none, or one per line, as $name (type) or $name (type, optional): meaning; a macro's without the $
    -- columns:
    --   name (unit): meaning

A line indented under a key continues it. One SELECT follows, without a semicolon.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["query", "view", "macro"]

_KEYS = ("purpose", "grain", "parameters", "columns")
_CONVERTERS: dict[str, Callable[[str], str | int | float]] = {"text": str, "integer": int, "number": float}
_HEADER = re.compile(r"-- (\w+):\s*(.*)")
_ENTRY = re.compile(r"(\$?[a-z]\w*)(?: \(([^)]*)\))?: (.+)")
_LITERAL = re.compile(r"'(?:[^']|'')*'|--[^\n]*")
_USED = re.compile(r"\$(\w+)")


class NamedQueryError(Exception):
    """A `.sql` file of this package is malformed, there is none of that name, or it was given parameters it does not take."""


@dataclass(frozen=True)
class Parameter:
    """A query's parameter: `type` is text, integer or number; an optional one may be left out (it is NULL then)."""

    name: str
    type: str
    is_optional: bool
    description: str


@dataclass(frozen=True)
class Field:
    """A column of the result."""

    name: str
    unit: str
    description: str

    @property
    def comment(self) -> str:
        """Return meaning and unit, in the manner of the store's own column comments."""
        return f"{self.description} [{self.unit}]" if self.unit else self.description


@dataclass(frozen=True)
class NamedQuery:
    """One `.sql` file; `text` is its SELECT. `name` is the file's, less `view_` or `macro_`: what to write in SQL."""

    name: str
    kind: Kind
    purpose: str
    grain: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Field, ...]
    text: str

    @property
    def definition(self) -> str:
        """Return the statements that make a view or macro in the temporary schema, with its comments."""
        if self.kind == "macro":
            arguments = ", ".join(parameter.name for parameter in self.parameters)
            about = f"COMMENT ON MACRO TABLE temp.main.{self.name} IS {literal(self.purpose)}"
            return f"CREATE TEMP MACRO {self.name}({arguments}) AS TABLE {self.text};{about}"
        comments = [f"COMMENT ON COLUMN temp.main.{self.name}.{c.name} IS {literal(c.comment)}" for c in self.columns]
        about = f"COMMENT ON VIEW temp.main.{self.name} IS {literal(self.purpose)}"
        return ";".join([f"CREATE TEMP VIEW {self.name} AS {self.text}", about, *comments])

    def bind(self, values: Mapping[str, str | float]) -> dict[str, str | int | float | None]:
        """Return a value for every parameter, converted to its declared type; raise NamedQueryError if they do not fit."""
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := sorted(set(values) - set(known)):
            raise NamedQueryError(
                f"query {self.name}: parameter {unknown[0]}, expected {listed(known)}. Leave it out or correct its name."
            )
        bound: dict[str, str | int | float | None] = dict.fromkeys(known)
        for parameter in self.parameters:
            if parameter.name in values:
                bound[parameter.name] = _converted(self.name, parameter, values[parameter.name])
            elif not parameter.is_optional:
                raise NamedQueryError(
                    f"query {self.name}: no value for parameter {parameter.name}, expected {parameter.type}. "
                    f"Add `--param {parameter.name}=...`."
                )
        return bound


def parse(stem: str, source: str) -> NamedQuery:
    """Read the header and the SELECT of the file `<stem>.sql`."""
    kind, name = kind_and_name(stem)
    lines = source.splitlines()
    num_header = next((index for index, line in enumerate(lines) if not line.startswith("--")), len(lines))
    header = _header(stem, lines[:num_header])
    text = "\n".join(lines[num_header:]).strip()
    code = _LITERAL.sub("", text)
    if not text or ";" in code:
        raise _error(stem, "no SELECT" if not text else "a semicolon", "one SELECT without a semicolon after the header")
    parameters = tuple(_parameter(stem, entry) for entry in header["parameters"] if entry != "none")
    declared, used = {p.name for p in parameters}, set(_USED.findall(code))
    if kind == "query" and declared != used:
        raise _error(stem, f"parameters {listed(declared)} declared and {listed(used)} used", "the same")
    fields = []
    for entry in header["columns"]:
        if (match := _ENTRY.fullmatch(entry)) is None:
            raise _error(stem, f"column `{entry}`", "`name (unit): meaning` or `name: meaning`")
        fields.append(Field(match[1], match[2] or "", match[3]))
    purpose, grain = (" ".join(header[key]) for key in ("purpose", "grain"))
    return NamedQuery(name, kind, purpose, grain, parameters, tuple(fields), text)


def kind_and_name(stem: str) -> tuple[Kind, str]:
    """Return what a file of this stem is, and its name in SQL."""
    if stem.startswith("view_"):
        return "view", stem.removeprefix("view_")
    if stem.startswith("macro_"):
        return "macro", stem.removeprefix("macro_")
    return "query", stem


def _header(stem: str, lines: list[str]) -> dict[str, list[str]]:
    """Return key -> its lines; a line that begins with more than one space continues the key above it."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in lines:
        match = _HEADER.fullmatch(line)
        if match is not None and match[1] in _KEYS and match[1] not in found:
            key = match[1]
            found[key] = [match[2]] if match[2] else []
        elif key and line.startswith("--  "):
            found[key].append(line[2:].strip())
        else:
            raise _error(stem, f"header line `{line}`", f"each of {listed(_KEYS)} once, or a line indented under one")
    if missing := [key for key in _KEYS if not found.get(key)]:
        raise _error(stem, f"no {missing[0]} in the header", f"a comment `-- {missing[0]}: ...` before the SELECT")
    return found


def _parameter(stem: str, entry: str) -> Parameter:
    match = _ENTRY.fullmatch(entry)
    kind, _, rest = (match[2] or "").partition(", ") if match else ("", "", "")
    has_dollar = not stem.startswith("macro_")
    if match is None or kind not in _CONVERTERS or rest not in ("", "optional") or match[1].startswith("$") != has_dollar:
        name = "$name" if has_dollar else "name"
        raise _error(stem, f"parameter `{entry}`", f"`{name} (type[, optional]): meaning` with type {listed(_CONVERTERS)}")
    return Parameter(match[1].removeprefix("$"), kind, bool(rest), match[3])


def _converted(name: str, parameter: Parameter, value: str | float) -> str | int | float:
    try:
        return _CONVERTERS[parameter.type](str(value))
    except ValueError as error:
        raise NamedQueryError(
            f"query {name}: parameter {parameter.name} = {value!r}, expected {parameter.type}. Correct the value."
        ) from error


def _error(stem: str, found: str, expected: str) -> NamedQueryError:
    return NamedQueryError(f"sql/{stem}.sql: {found}, expected {expected}. Correct the file.")


def listed(items: Iterable[str]) -> str:
    """Return names for a message."""
    return ", ".join(sorted(items)) or "none"


def literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
