"""What a cohort contract (`cohorts/<name>.yaml`) may say, and reading one. Nothing here opens a source file.

A contract names, for each kind of feature, where it lies in the landing folder and how its columns map to ours. Everything in
it is declared: a value that no rule maps is rejected with the reason, never guessed.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from feature_store.contract_fields import (
    ColumnPattern,
    Count,
    ExtractPattern,
    FoldFiles,
    Fraction,
    LandingPath,
    Name,
    SlideFiles,
    ValuePattern,
)
from feature_store.errors import ContractError, LandingMissingError
from feature_store.tables import CLINICAL

Unit = Literal["days", "months", "years"]
EndpointName = Literal["os", "dss", "dfi", "pfi"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Identifier(_Strict):
    """A column that holds an identifier; `extract` is a pattern whose first group is the identifier."""

    column: str
    extract: ExtractPattern | None = None


class Value(_Strict):
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


class Source(_Strict):
    """Files of one layout: `path` is a glob relative to the landing folder."""

    path: LandingPath
    sheet: str | None = None
    case_id: Identifier


class GapSource(Source):
    """A source of several for one kind; `fills_gaps`: take only cases that no earlier source of the list has."""

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

    @field_validator("columns")
    @classmethod
    def _are_baseline(cls, columns: dict[str, Value]) -> dict[str, Value]:
        declared = [column.name for column in CLINICAL.columns if column.role == "baseline"]
        if unknown := sorted(set(columns) - set(declared)):
            raise ValueError(f"{unknown} are no baseline columns, expected some of {declared}")
        return columns


class EndpointRule(_Strict):
    """Duration and event columns of an endpoint; `events` maps every code to whether the event happened."""

    duration: str
    unit: Unit
    event: str
    events: dict[str, bool] = Field(min_length=1)


class EndpointsSource(Source):
    """Survival endpoints."""

    endpoints: dict[EndpointName, EndpointRule] = Field(min_length=1)


class SampleRule(_Strict):
    """Several samples of one case: keep the one whose type comes first in `prefer`; the others go to quarantine, named."""

    extract: ExtractPattern
    prefer: tuple[str, ...] = Field(min_length=1)


class VectorSource(Source):
    """One row per case (or per slide, rows then being equal); `features` is a pattern whose group names the feature."""

    features: ColumnPattern
    unit: str
    grain: Literal["case", "slide"] = "case"
    sample: SampleRule | None = None
    sample_column: str | None = None


class VariantSource(GapSource):
    """One row per variant."""

    layout: Literal["variant_table"]
    gene_symbol: str
    variant_classification: str
    protein_change: str
    drop_classifications: tuple[str, ...] = ()  # silent variants, where the source lists them


class MutationMatrixSource(GapSource):
    """One row per case (or slide), one 0/1 column per gene; `features` is a pattern whose group is the gene symbol."""

    layout: Literal["mutation_matrix"]
    features: ColumnPattern


MutationSource = Annotated[VariantSource | MutationMatrixSource, Field(discriminator="layout")]


class ReportSource(GapSource):
    """One row per report document."""

    report_id: str
    text: str
    min_characters: int = 50


class Encoder(_Strict):
    """What made the embeddings. `sha256` is the weights' hash, or empty where the source does not say."""

    name: str
    dim: Count
    sha256: str = ""
    patch_size_px: int = 0


class SlideVectorSource(Source):
    """A table with one feature vector per slide: becomes a bag of one patch."""

    layout: Literal["vector_table"]
    slide_id: str | None = None
    features: ColumnPattern
    transform: Literal["none", "signed_log1p"] = "none"
    encoder: Encoder


class PatchFolderSource(Source):
    """A table of slides, and beside it one h5 file per slide as TRIDENT writes it (`features`, `coords`)."""

    layout: Literal["trident_h5"]
    slide_id: str
    files: SlideFiles
    mpp: str | None = None
    magnification: str | None = None
    stain: str | None = None
    encoder: Encoder


SlideSource = Annotated[SlideVectorSource | PatchFolderSource, Field(discriminator="layout")]


class RandomSplit(_Strict):
    """Folds drawn at random, stratified by cancer type and event; the case is the unit."""

    kind: Literal["random"]
    name: str
    num_folds: int = Field(default=5, ge=2)
    seed: int = Field(ge=0)
    endpoint: EndpointName = "os"


class GivenSplit(_Strict):
    """Folds given by files: `path` holds `{cancer_type}` and `{fold}`; `held_out` is the column of the cases held out."""

    kind: Literal["given"]
    name: str
    path: FoldFiles
    cancer_types: tuple[str, ...] = Field(min_length=1)
    num_folds: int = Field(default=5, ge=2)
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

    pattern: ValuePattern
    upper: bool = True


class Contract(_Strict):
    """A cohort contract. `cohorts` lists the partition keys its cases may fall into."""

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
        return Contract.model_validate(_parsed(path))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise ContractError(f"cohort contract {path}: {problems}. See docs/cohorts.md for what a contract may say.") from error


def load_contracts(folder: Path) -> dict[str, Contract]:
    """Return cohort (partition key) -> the contract that declares it, over all contracts in `folder`."""
    by_cohort: dict[str, Contract] = {}
    by_name: dict[str, Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        contract = load_contract(path)
        if contract.name in by_name:
            raise ContractError(
                f"cohort contract {path}: name {contract.name}, which {by_name[contract.name]} has too, expected another. "
                "Rename one of them."
            )
        by_name[contract.name] = path
        for cohort in contract.cohorts:
            if cohort in by_cohort:
                raise ContractError(
                    f"cohort {cohort}: declared by contracts {by_cohort[cohort].name} and {contract.name}, expected one. "
                    "Rename one of them."
                )
            by_cohort[cohort] = contract
    return by_cohort


class _UniqueKeys(yaml.SafeLoader):
    """YAML, but a key given twice is an error: plain YAML would keep the last and drop the first without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"keys {repeated} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(path: Path) -> object:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets more than YAMLError out: bad dates, tags without a value, deep nesting, bytes that are no UTF-8
        raise ContractError(f"cohort contract {path}: not valid YAML ({error}). Correct the file.") from error
