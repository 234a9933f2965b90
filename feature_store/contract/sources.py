"""The sources a contract may name for cases, clinical variables and outcomes: where they lie, and which columns are meant.

What all sources have is here too. Features of other kinds: feature_sources.py, slide_sources.py.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from feature_store.columns import Role
from feature_store.contract.endpoints import EndpointNotes, EndpointRule, FollowUpEnd
from feature_store.contract.fields import CaseFiles, LandingPath
from feature_store.contract.formats import TableFormat
from feature_store.contract.rules import DAYS_PER, EndpointName, Exclusion, Identifier, PathCohort, PickKey, Value
from feature_store.tables import CLINICAL, FOLLOW_UP, Table

Pick = tuple[PickKey, ...]


class Source(TableFormat):
    """Files of one layout: `path` is a glob relative to the landing folder."""

    path: LandingPath
    case_id: Identifier


class RowSource(Source):
    """A source whose rows may be several of a case, of which one is to count: `pick` says which, key by key.

    `nested`: lists inside a record of JSON, by their keys joined with dots: all their elements become rows, or the one picked.
    """

    nested: dict[str, Literal["all"] | Annotated[Pick, Field(min_length=1)]] = Field(default_factory=dict)
    pick: Pick = ()
    cohort_from_path: PathCohort | None = None

    @property
    def columns_read(self) -> tuple[str, ...] | None:
        """The columns that are asked for, where no others can matter; None: all may."""
        return None

    @property
    def number_columns(self) -> str | None:
        """A pattern of the columns that hold numbers and nothing else; None: any text may be in any column."""
        return None

    @property
    def columns_of_rows(self) -> tuple[str, ...]:
        """The columns that say which rows count, and of which case they are."""
        return (self.case_id.column, *(key.column for key in self.pick), *self.where)

    @model_validator(mode="after")
    def _nested_lists_lie_apart(self) -> "RowSource":
        if inside := [f"{inner} in {outer}" for outer in self.nested for inner in self.nested if inner.startswith(f"{outer}.")]:
            raise ValueError(f"nested: {inside}, expected the inner list alone, which brings the columns of the outer one")
        return self


class CaseFilesSource(RowSource):
    """Files that belong to one case each: `path` names a table that says where they lie (`files`), or the files themselves.

    In `files`, a column's name in braces stands for the row's value. Without it the table has one column, `path`.
    `file` is the form of the files, as the other keys of that name are the form of the table.
    """

    files: CaseFiles | None = None
    file: TableFormat = TableFormat()


class GapSource(RowSource):
    """A source of several for one kind; `fills_gaps`: take only cases that no earlier source of the list has."""

    fills_gaps: bool = False


class WithdrawnSource(Source):
    """A list of cases that are to be left out, with the column that says why."""

    reason: str


class CasesSource(RowSource):
    """The table that says which cases there are. A case in no row here, or in one of `withdrawn`, does not exist."""

    cohort: Value
    project_id: Value
    cancer_type: Value
    site: Identifier | None = None
    exclude: tuple[Exclusion, ...] = ()
    withdrawn: WithdrawnSource | None = None


class SamplesSource(RowSource):
    """Which samples, and aliquots of them, the cases have; one row for each."""

    sample_id: str
    sample_type: Value
    aliquot_id: str | None = None


class AliasSource(RowSource):
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
        units = {column.name: column.unit for column in table.columns}
        if timeless := sorted(name for name, value in columns.items() if value.unit and units[name] not in DAYS_PER):
            raise ValueError(f"{timeless} have no unit of time, expected no unit there")
        return columns

    return AfterValidator(check)


class ClinicalSource(RowSource):
    """Baseline clinical variables: our column name -> where it comes from."""

    columns: Annotated[dict[str, Value], _declared_in(CLINICAL, "baseline")]


class FollowUpSource(RowSource):
    """What became known after time zero, and is no endpoint: our column name -> where it comes from. No model sees it."""

    columns: Annotated[dict[str, Value], _declared_in(FOLLOW_UP, "post_treatment")]


class EndpointsSource(RowSource):
    """Survival endpoints. `follow_up_end` cuts all of them; `suitability` is what is known of their use."""

    endpoints: dict[EndpointName, EndpointRule] = Field(min_length=1)
    follow_up_end: FollowUpEnd | None = None
    suitability: EndpointNotes | None = None
