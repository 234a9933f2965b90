"""What a cohort contract (`cohorts/<name>.yaml`) may say, and reading one. Nothing here opens a source file.

A contract names, for each kind of feature, where it lies in the landing folder and how its columns map to ours. Everything in
it is declared: a value that no rule maps is rejected with the reason, never guessed.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from feature_store.columns import Role
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
from feature_store.tables import CLINICAL, FOLLOW_UP, Table

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


class AliasSource(Source):
    """Other identifiers of the same people: another hospital's, a former barcode. `source` says whose they are.

    Identifiers that are mere numbers get a `prefix`: two cases with one alias are taken for one person, in whatever cohorts.
    """

    alias: Identifier
    source: str
    prefix: str = ""


def _declared_in(table: Table, role: Role) -> AfterValidator:
    declared = [column.name for column in table.columns if column.role == role]

    def check(columns: dict[str, Value]) -> dict[str, Value]:
        if unknown := sorted(set(columns) - set(declared)):
            raise ValueError(f"{unknown} are no {role} columns of {table.name}, expected some of {declared}")
        return columns

    return AfterValidator(check)


class ClinicalSource(Source):
    """Baseline clinical variables: our column name -> where it comes from."""

    columns: Annotated[dict[str, Value], _declared_in(CLINICAL, "baseline")]


class FollowUpSource(Source):
    """What became known after time zero, and is no endpoint: our column name -> where it comes from. No model sees it."""

    columns: Annotated[dict[str, Value], _declared_in(FOLLOW_UP, "post_treatment")]


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


class GeneNames(_Strict):
    """A table of names: column `from` holds the source's identifiers (Ensembl ids, former symbols), `to` the symbol of each.

    `strip_version`: ENSG00000141510.18 counts as ENSG00000141510, in the source and in the table.
    """

    path: LandingPath
    from_column: str = Field(alias="from")
    to_column: str = Field(alias="to")
    strip_version: bool = False


class VectorSource(Source):
    """One row per case (or per slide, rows then being equal); `features` is a pattern whose group names the feature."""

    features: ColumnPattern
    gene_names: GeneNames | None = None
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


class _NamedSplit(_Strict):
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
    follow_up: FollowUpSource | None = None
    endpoints: EndpointsSource
    rna: tuple[VectorSource, ...] = ()
    copy_number: tuple[VectorSource, ...] = ()
    mutations: tuple[MutationSource, ...] = ()
    reports: tuple[ReportSource, ...] = ()
    slides: tuple[SlideSource, ...] = ()
    splits: tuple[Split, ...] = Field(min_length=1)
    generator: Generator | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_split_is_a_list_of_one(cls, fields: object) -> object:
        if not isinstance(fields, dict) or "split" not in fields:
            return fields
        if "splits" in fields:
            raise ValueError("split and splits exclude each other: list all splits under splits")
        return {name: value for name, value in fields.items() if name != "split"} | {"splits": [fields["split"]]}

    @model_validator(mode="after")
    def _splits_can_be_told_apart_and_made(self) -> "Contract":
        names = [split.name for split in self.splits]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"splits {repeated} have the same name, expected each once")
        if self.cases.site is None and any(isinstance(split, SitePreservedSplit) for split in self.splits):
            raise ValueError("a site_preserved split needs cases.site")
        return self


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
