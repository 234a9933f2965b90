"""What a cohort contract (`cohorts/<name>.yaml`) may say, and reading one. Nothing here opens a source file.

A contract names, for each kind of feature, where it lies in the landing folder and how its columns map to ours. Everything in it is
declared: a value that no rule maps is rejected with the reason, never guessed.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from feature_store.errors import ContractError, LandingMissingError

Unit = Literal["days", "months", "years"]
EndpointName = Literal["os", "dss", "dfi", "pfi"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identifier(_Strict):
    """A column that holds an identifier; `extract` is a pattern whose first group is the identifier."""

    column: str
    extract: str | None = None

    @field_validator("extract")
    @classmethod
    def _has_one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None and re.compile(pattern).groups != 1:
            raise ValueError(f"extract {pattern!r} needs exactly one group")
        return pattern


class Value(_Strict):
    """A column's value: the first of `columns` that is not missing, through `map` (all other values are rejected)."""

    columns: tuple[str, ...] = Field(min_length=1)
    map: dict[str, str | float | None] | None = None
    lower: bool = False
    prefix: str = ""


class Source(_Strict):
    """Files of one layout: `path` is a glob relative to the landing folder.

    `fills_gaps` (mutations and reports): take only cases that no earlier source of the same list has.
    """

    path: str
    sheet: str | None = None
    case_id: Identifier
    fills_gaps: bool = False


class Exclusion(_Strict):
    """Rows to leave out, with the reason that goes to quarantine."""

    column: str
    equals: str
    reason: str


class CasesSource(Source):
    """The table that says which cases there are. A case in no row here does not exist."""

    cohort: Value
    project_id: Value
    cancer_type: Value
    site: Identifier | None = None
    exclude: tuple[Exclusion, ...] = ()


class ClinicalSource(Source):
    """Baseline clinical variables: our column name -> where it comes from."""

    columns: dict[str, Value]


class EndpointRule(_Strict):
    """Duration and event columns of an endpoint; `events` maps every code to whether the event happened."""

    duration: str
    unit: Unit
    event: str
    events: dict[str, bool]


class EndpointsSource(Source):
    """Survival endpoints."""

    endpoints: dict[EndpointName, EndpointRule]


class SampleRule(_Strict):
    """Several samples of one case: keep the one whose type comes first in `prefer`; the others go to quarantine, named."""

    extract: str
    prefer: tuple[str, ...]


class VectorSource(Source):
    """One row per case (or per slide, rows then being equal); `features` is a pattern whose group names the feature."""

    features: str
    unit: str
    grain: Literal["case", "slide"] = "case"
    sample: SampleRule | None = None
    sample_column: str | None = None


class VariantSource(Source):
    """One row per variant."""

    layout: Literal["variant_table"]
    gene_symbol: str
    variant_classification: str
    protein_change: str
    drop_classifications: tuple[str, ...] = ()  # silent variants, where the source lists them


class MutationMatrixSource(Source):
    """One row per case (or slide), one 0/1 column per gene; `features` is a pattern whose group is the gene symbol."""

    layout: Literal["mutation_matrix"]
    features: str


MutationSource = Annotated[VariantSource | MutationMatrixSource, Field(discriminator="layout")]


class ReportSource(Source):
    """One row per report document."""

    report_id: str
    text: str
    min_characters: int = 50


class Encoder(_Strict):
    """What made the embeddings. `sha256` is the weights' hash, or empty where the source does not say."""

    name: str
    dim: int
    sha256: str = ""
    patch_size_px: int = 0


class SlideVectorSource(Source):
    """A table with one feature vector per slide: becomes a bag of one patch."""

    layout: Literal["vector_table"]
    slide_id: str | None = None
    features: str
    transform: Literal["none", "signed_log1p"] = "none"
    encoder: Encoder


class PatchFolderSource(Source):
    """A table of slides, and beside it one h5 file per slide as TRIDENT writes it (`features`, `coords`)."""

    layout: Literal["trident_h5"]
    slide_id: str
    files: str
    mpp: str | None = None
    magnification: str | None = None
    stain: str | None = None
    encoder: Encoder


SlideSource = Annotated[SlideVectorSource | PatchFolderSource, Field(discriminator="layout")]


class RandomSplit(_Strict):
    """Folds drawn at random, stratified by cancer type and event; the case is the unit."""

    kind: Literal["random"]
    name: str
    num_folds: int = 5
    seed: int
    endpoint: EndpointName = "os"


class GivenSplit(_Strict):
    """Folds given by files: `path` holds `{cancer_type}` and `{fold}`; `held_out` is the column of the cases held out."""

    kind: Literal["given"]
    name: str
    path: str
    cancer_types: tuple[str, ...]
    num_folds: int = 5
    held_out: str


Split = Annotated[RandomSplit | GivenSplit, Field(discriminator="kind")]


class Generator(_Strict):
    """The landing folder is made by the platform (feature_store/synthetic.py) with these sizes."""

    num_cases: int
    num_genes: int
    slide_dim: int
    mean_patches: int
    seed: int


class CaseIdRule(_Strict):
    """What a valid case identifier looks like once spaces, dashes and letter case are normalised."""

    pattern: str
    upper: bool = True


class Contract(_Strict):
    """A cohort contract. `cohorts` lists the partition keys its cases may fall into."""

    name: str
    title: str
    licence: str
    citation: str
    time_zero: str
    cohorts: tuple[str, ...]
    case_id: CaseIdRule
    missing_values: tuple[str, ...] = ("",)
    max_quarantined_fraction: float = 0.05
    cases: CasesSource
    clinical: ClinicalSource
    endpoints: EndpointsSource
    rna: tuple[VectorSource, ...] = ()
    copy_number: tuple[VectorSource, ...] = ()
    mutations: tuple[MutationSource, ...] = ()
    reports: tuple[ReportSource, ...] = ()
    slides: tuple[SlideSource, ...] = ()
    split: Split
    generator: Generator | None = None


def load_contract(path: Path) -> Contract:
    """Read and validate a contract. Raises ContractError naming the file and the offending fields."""
    if not path.is_file():
        raise LandingMissingError(f"cohort contract: no file at {path}, expected a YAML contract. Check the name.")
    try:
        return Contract.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ContractError(f"cohort contract {path}: not valid YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise ContractError(f"cohort contract {path}: {problems}. See docs/cohorts.md for what a contract may say.") from error


def load_contracts(folder: Path) -> dict[str, Contract]:
    """Return cohort (partition key) -> the contract that declares it, over all contracts in `folder`."""
    by_cohort: dict[str, Contract] = {}
    for path in sorted(folder.glob("*.yaml")):
        contract = load_contract(path)
        for cohort in contract.cohorts:
            if cohort in by_cohort:
                raise ContractError(
                    f"cohort {cohort}: declared by contracts {by_cohort[cohort].name} and {contract.name}, expected one. "
                    "Rename one of them."
                )
            by_cohort[cohort] = contract
    return by_cohort
