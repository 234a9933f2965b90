"""Rules that a contract gives for one column or one value: which column, which codes, which sample, which encoder."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from feature_store.contract.fields import Count, ExtractPattern, LandingPath, ValuePattern

Unit = Literal["days", "months", "years"]

EndpointName = Literal["os", "dss", "dfi", "pfi"]


class Strict(BaseModel):
    """A part of a contract: an unknown key is an error, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Identifier(Strict):
    """A column that holds an identifier; `extract` is a pattern whose first group is the identifier."""

    column: str
    extract: ExtractPattern | None = None


class Value(Strict):
    """A column's value: the first of `columns` that is not missing, through `map` (all other values are rejected).

    `lower` writes an unmapped text in small letters.
    """

    columns: tuple[str, ...] = Field(min_length=1)
    map: dict[str, str | float | None] | None = Field(default=None, min_length=1)
    lower: bool = False
    prefix: str = ""

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


class EndpointRule(Strict):
    """Duration and event columns of an endpoint; `events` maps every code to whether the event happened."""

    duration: str
    unit: Unit
    event: str
    events: dict[str, bool] = Field(min_length=1)


class SampleRule(Strict):
    """Several samples of one case: keep the one whose type comes first in `prefer`; the others go to quarantine, named."""

    extract: ExtractPattern
    prefer: tuple[str, ...] = Field(min_length=1)


class GeneNames(Strict):
    """A table of names: column `from` holds the source's identifiers (Ensembl ids, former symbols), `to` the symbol of each.

    `strip_version`: ENSG00000141510.18 counts as ENSG00000141510, in the source and in the table.
    """

    path: LandingPath
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
