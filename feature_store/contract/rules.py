"""Rules that a contract gives for one column or one value: which column, which codes, which of several rows, which encoder.

Not here: what makes an endpoint (endpoints.py), and in which form a table is written (formats.py).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from feature_store.contract.fields import ColumnPattern, Count, ExtractPattern, LandingPath, ValuePattern

Unit = Literal["days", "months", "years"]
DAYS_PER = {"days": 1.0, "months": 30.44, "years": 365.25}  # TCGA's own month (docs/decisions.md)

EndpointName = Literal["os", "dss", "dfi", "pfi"]


class Strict(BaseModel):
    """A part of a contract: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)


class Identifier(Strict):
    """A column that holds an identifier; `extract` is a pattern whose first group is the identifier."""

    column: str
    extract: ExtractPattern | None = None


class Value(Strict):
    """A column's value: the first of `columns` that is not missing, through `map` (all other values are rejected).

    `lower` writes an unmapped text in small letters. `unit` is the source's, of a time that the store keeps in another.
    Or `always` one text, for every case, where no column says it: the name of the one hospital.
    """

    columns: tuple[str, ...] = Field(default=(), min_length=1)
    always: Annotated[str, StringConstraints(min_length=1)] | None = None
    map: dict[str, str | float | None] | None = Field(default=None, min_length=1)
    lower: bool = False
    prefix: str = ""
    unit: Unit | None = None

    @model_validator(mode="after")
    def _is_always_the_same_or_of_columns(self) -> "Value":
        if (self.always is None) == (not self.columns) or (self.always and (self.map or self.lower or self.prefix or self.unit)):
            raise ValueError("give either columns, or always and nothing else")
        return self

    @model_validator(mode="after")
    def _is_mapped_or_lowered(self) -> "Value":
        if self.lower and self.map is not None:
            raise ValueError("lower and map exclude each other: write the map's targets as they are to be")
        return self


class Exclusion(Strict):
    """Rows to leave out, with the reason that goes to quarantine."""

    column: str
    equals: str
    reason: str


class PickKey(Strict):
    """By what one of several rows of a case is told to count: a value that comes early in `prefer`, or the end of an `order`.

    `lowest` and `highest` compare numbers, `first` and `last` texts by the alphabet. `prefer` may name "", a missing value.
    """

    column: str
    extract: ExtractPattern | None = None
    prefer: tuple[str, ...] = ()
    order: Literal["lowest", "highest", "first", "last"] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> "PickKey":
        if bool(self.prefer) == (self.order is not None):
            raise ValueError("give either prefer or order")
        return self


class PathCohort(Strict):
    """The cohort that every row of a file must belong to, as the file's path says: `prefix`, and the group of `extract`."""

    extract: ColumnPattern
    prefix: str = ""


class GeneNames(Strict):
    """A table of names: column `from` holds the source's identifiers (Ensembl ids, former symbols), `to` the symbol of each.

    Without `path`, the columns are those of the sample files themselves.
    `strip_version`: ENSG00000141510.18 counts as ENSG00000141510, in the source and in the table.
    """

    path: LandingPath | None = None
    from_column: str = Field(alias="from")
    to_column: str = Field(alias="to")
    strip_version: bool = False


class Encoder(Strict):
    """What made the embeddings. `sha256` is the weights' hash, or empty where the source does not say."""

    name: str
    dim: Count
    sha256: str = ""
    patch_size_px: int = 0


class CaseIdRule(Strict):
    """What a valid case identifier looks like once spaces, dashes and letter case are normalised."""

    pattern: ValuePattern
    upper: bool = True
