"""How a contract says in which form a file's table is written, and which of its rows are meant. What columns mean: sources.py."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from feature_store.contract.fields import Encoding, Separator
from feature_store.contract.rules import Strict


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list)]  # one may be written without a list


class TableFormat(Strict):
    """The form of a table, beyond what its file's ending says. What is not given is as the ending has it.

    `comment`: what lines before the header begin with. `records`: the keys, joined by dots, under which JSON has its list.
    `optional_columns`: may be absent, and have no value then. `where`: only the rows with one of these values.
    """

    sheet: str | None = None
    separator: Separator | None = None
    decimal: Literal[".", ","] = "."
    encoding: Encoding = "utf-8"
    comment: str | None = Field(default=None, min_length=1)
    records: str | None = Field(default=None, min_length=1)
    optional_columns: Texts = ()
    where: dict[str, Annotated[Texts, Field(min_length=1)]] = Field(default_factory=dict)
