"""The splits a contract may declare: how cases are dealt into folds."""

from typing import Annotated, Literal

from pydantic import Field

from feature_store.contract.fields import FoldFiles
from feature_store.contract.rules import EndpointName, Strict


class _NamedSplit(Strict):
    name: str
    num_folds: int = Field(default=5, ge=2)


class RandomSplit(_NamedSplit):
    """Folds drawn at random, stratified by cancer type and event; the case is the unit."""

    kind: Literal["random"]
    seed: int = Field(ge=0)
    endpoint: EndpointName = "os"


class SitePreservedSplit(_NamedSplit):
    """Folds of whole sites, drawn so that cancer types and events are even; a case without a site is a site of its own."""

    kind: Literal["site_preserved"]
    seed: int = Field(ge=0)
    endpoint: EndpointName = "os"


class GivenSplit(_NamedSplit):
    """Folds given by files: `path` holds `{cancer_type}` and `{fold}`; `held_out` is the column of the cases held out."""

    kind: Literal["given"]
    path: FoldFiles
    cancer_types: tuple[str, ...] = Field(min_length=1)
    held_out: str


Split = Annotated[RandomSplit | SitePreservedSplit | GivenSplit, Field(discriminator="kind")]
