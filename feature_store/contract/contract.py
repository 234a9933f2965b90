"""The contract as a whole: one model of all that `cohorts/<name>.yaml` may say."""

from typing import Literal

from pydantic import Field, model_validator

from feature_store.contract.deidentify import Deidentify
from feature_store.contract.feature_sources import AnyMutationSource, AnyReportSource, AnyVectorSource
from feature_store.contract.fields import Fraction, Name
from feature_store.contract.rules import CaseIdRule, Strict
from feature_store.contract.slide_sources import SlideSource, refuse_mixed_encoders
from feature_store.contract.sources import (
    AliasSource,
    CasesSource,
    ClinicalSource,
    EndpointsSource,
    FollowUpSource,
    SamplesSource,
    Source,
)
from feature_store.contract.splits import SitePreservedSplit, Split


class Generator(Strict):
    """The landing folder is made by the platform (feature_store/synthetic.py) with these sizes."""

    num_cases: int
    num_genes: int
    slide_dim: int
    mean_patches: int
    seed: int


class Contract(Strict):
    """A cohort contract. `cohorts` lists the partition keys its cases may fall into; `split` in a file is one of `splits`."""

    name: Name
    title: str
    licence: str
    citation: str
    time_zero: str
    cohorts: tuple[str, ...] = Field(min_length=1)
    case_id: CaseIdRule
    missing_values: tuple[str, ...] = ("",)
    max_quarantined_fraction: Fraction = 0.05
    cases: CasesSource
    aliases: tuple[AliasSource, ...] = ()
    clinical: ClinicalSource
    more_clinical: tuple[ClinicalSource, ...] = ()
    follow_up: FollowUpSource | None = None
    endpoints: EndpointsSource
    samples: tuple[SamplesSource, ...] = ()
    rna: tuple[AnyVectorSource, ...] = ()
    copy_number: tuple[AnyVectorSource, ...] = ()
    protein: tuple[AnyVectorSource, ...] = ()
    mutations: tuple[AnyMutationSource, ...] = ()
    reports: tuple[AnyReportSource, ...] = ()
    slides: tuple[SlideSource, ...] = ()
    splits: tuple[Split, ...] = Field(min_length=1)
    deidentify: Deidentify | Literal[False] = False  # null is refused: it could be meant either way
    generator: Generator | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_split_is_a_list_of_one(cls, fields: object) -> object:
        if not isinstance(fields, dict) or "split" not in fields:
            return fields
        if "splits" in fields:
            raise ValueError("split and splits exclude each other: list all splits under splits")
        return {name: value for name, value in fields.items() if name != "split"} | {"splits": [fields["split"]]}

    @property
    def case_tables(self) -> list[Source]:
        """Every source but those of slides, in the order in which they are read."""
        return [
            self.cases,
            *([] if self.cases.withdrawn is None else [self.cases.withdrawn]),
            *self.aliases,
            self.clinical,
            *self.more_clinical,
            *([] if self.follow_up is None else [self.follow_up]),
            self.endpoints,
            *self.samples,
            *self.rna,
            *self.copy_number,
            *self.protein,
            *self.mutations,
            *self.reports,
        ]

    @model_validator(mode="after")
    def _splits_can_be_told_apart_and_made(self) -> "Contract":
        names = [split.name for split in self.splits]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"splits {repeated} have the same name, expected each once")
        if self.cases.site is None and any(isinstance(split, SitePreservedSplit) for split in self.splits):
            raise ValueError("a site_preserved split needs cases.site")
        refuse_mixed_encoders(self.slides)
        return self
