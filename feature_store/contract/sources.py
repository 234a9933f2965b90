"""The sources a contract may name: where the files of one kind of feature lie, in which layout, and which columns are meant."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from feature_store.columns import Role
from feature_store.contract.fields import ColumnPattern, LandingPath
from feature_store.contract.rules import (
    EndpointName,
    EndpointRule,
    Exclusion,
    GeneNames,
    Identifier,
    SampleRule,
    Strict,
    Value,
)
from feature_store.tables import CLINICAL, FOLLOW_UP, Table


class Source(Strict):
    """Files of one layout: `path` is a glob relative to the landing folder."""

    path: LandingPath
    sheet: str | None = None
    case_id: Identifier


class GapSource(Source):
    """A source of several for one kind; `fills_gaps`: take only cases that no earlier source of the list has."""

    fills_gaps: bool = False


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


class EndpointsSource(Source):
    """Survival endpoints."""

    endpoints: dict[EndpointName, EndpointRule] = Field(min_length=1)


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
