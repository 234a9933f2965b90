"""What an ingest report is made of: files, columns and codes, rows set aside, vectors, cohorts. Structures only, for JSON too."""

from dataclasses import dataclass

from feature_store.audit import Check


@dataclass(frozen=True)
class FileFound:
    """A source file: rows of it that are in each table now, and rows that were set aside.

    It may be used without a row of its own: a table of names, or one that fills what another leaves empty.
    """

    path: str
    num_bytes: int
    kept: dict[str, int]
    set_aside: int
    is_used: bool


@dataclass(frozen=True)
class Code:
    """A value as found, how often, and what the contract says it is; not `is_declared` where it says nothing."""

    found: str
    becomes: str | None
    rows: int
    is_declared: bool


@dataclass(frozen=True)
class MappedColumn:
    """One of our columns and where it comes from; `codes` where the contract lists values."""

    table: str
    column: str
    sources: tuple[str, ...]
    rows_with_value: int
    codes: tuple[Code, ...]


@dataclass(frozen=True)
class SetAside:
    """Rows that the quarantine names for one reason. `effect`: rejected, left_out by declaration, or kept though odd.

    `num_ids`: how many identifiers they have; `num_ids_left_out`: how many of them begin with one that `cases` itself leaves out.
    """

    effect: str
    table: str
    reason: str
    rows: int
    num_ids: int
    num_ids_left_out: int
    files: dict[str, int]
    examples: tuple[tuple[str | None, str | None], ...]  # identifier and value, as found


@dataclass(frozen=True)
class Vectors:
    """Vectors of one panel and unit: how many features, of how many cases, between which values (None: all missing)."""

    table: str
    unit: str
    num_features: int
    num_cases: int
    lowest: float | None
    highest: float | None
    missing_share: float


@dataclass(frozen=True)
class CohortFound:
    """A cohort as it would be published. `endpoints`: cases and events; `modalities`: cases that have it, and that failed."""

    cohort: str
    num_cases: int
    endpoints: dict[str, tuple[int, int]]
    modalities: dict[str, tuple[int, int]]
    checks: tuple[Check, ...]

    @property
    def is_publishable(self) -> bool:
        """Say whether publishing it would not be refused."""
        return all(check.is_passed for check in self.checks)


@dataclass(frozen=True)
class IngestReport:
    """All of it. `not_named`: files of the landing folder that no source of the contract names, counted by folder and ending."""

    contract: str
    landing: str
    files: tuple[FileFound, ...]
    not_named: dict[str, int]
    mapped: tuple[MappedColumn, ...]
    identifiers_normalised: int
    set_aside: tuple[SetAside, ...]
    vectors: tuple[Vectors, ...]
    cohorts: tuple[CohortFound, ...]

    @property
    def is_publishable(self) -> bool:
        """Say whether every cohort could be published."""
        return all(cohort.is_publishable for cohort in self.cohorts)
