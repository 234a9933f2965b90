"""The store's tables: grain, key and columns, and what follows from them (Arrow schema, DDL, comments).

What belongs here: the list of tables. Columns are declared in columns.py; reading and writing rows is lake.py and publish.py.
Dagster's code location reads these declarations when it starts, so polars is imported only when a schema is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from feature_store import columns as c
from feature_store.columns import Column

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Table:
    """A table: `key` names the columns that identify a row; `scope` the column whose value a write replaces as a whole.

    `row_group_rows`: how many rows lie together in its files at least, where a query wants few of its large rows.
    `derived_from`: the table whose rows these are in another form (transposed.py); whoever writes one writes the other.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    scope: str = "cohort"
    row_group_rows: int | None = None
    derived_from: str = ""

    @cached_property
    def schema(self) -> "dict[str, pl.DataType]":
        """Return column name -> polars type, in declared order."""
        import polars as pl  # noqa: PLC0415 - see above

        types: dict[str, pl.DataType] = {
            "VARCHAR": pl.String(),
            "INTEGER": pl.Int32(),
            "BIGINT": pl.Int64(),
            "DOUBLE": pl.Float64(),
            "BOOLEAN": pl.Boolean(),
            "FLOAT[]": pl.List(pl.Float32()),
        }
        return {column.name: types[column.sql_type] for column in self.columns}

    @property
    def creation(self) -> list[str]:
        """Return the statements that create the table with its comments, in the catalog `lake`."""
        body = ", ".join(
            f'"{column.name}" {column.sql_type}{" NOT NULL" if column.is_required else ""}' for column in self.columns
        )
        made = [
            f'CREATE TABLE "{self.name}" ({body})',
            f'COMMENT ON TABLE "{self.name}" IS {_literal(f"One row per {self.grain}.")}',
        ]
        return [*made, *self._column_comments(self.columns)]

    def extension(self, found: set[str]) -> list[str]:
        """Return the statements that add the declared columns that are not among `found`; rows of before have no value there."""
        missing = [column for column in self.columns if column.name not in found]
        added = [f'ALTER TABLE "{self.name}" ADD COLUMN "{column.name}" {column.sql_type}' for column in missing]
        return [*added, *self._column_comments(missing)]

    def _column_comments(self, columns: Sequence[Column]) -> list[str]:
        return [f'COMMENT ON COLUMN "{self.name}"."{column.name}" IS {_literal(column.comment)}' for column in columns]

    def conform(self, frame: "pl.DataFrame") -> "pl.DataFrame":
        """Return this table's columns of `frame`, in declared order and type."""
        return frame.select(list(self.schema)).cast(dict(self.schema))  # type: ignore[arg-type] # polars' own mapping type is invariant

    def empty(self) -> "pl.DataFrame":
        """Return a frame of this table's schema with no rows."""
        import polars as pl  # noqa: PLC0415 - see above

        return pl.DataFrame(schema=self.schema)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


_ID = (c.CASE_ID, c.COHORT)

CASES = Table("cases", "case", ("case_id",), (*_ID, c.PROJECT_ID, c.CANCER_TYPE, c.SITE, c.SOURCE))
CASE_ALIASES = Table(
    "case_aliases",
    "other identifier of a case",
    ("case_id", "alias", "source"),
    (*_ID, c.ALIAS, c.ALIAS_SOURCE, c.SOURCE),
)
ENDPOINTS = Table(
    "endpoints",
    "case and endpoint",
    ("case_id", "endpoint"),
    (*_ID, c.ENDPOINT, c.DURATION, c.EVENT, c.FOLLOW_UP_END, c.SOURCE),
)
ENDPOINT_NOTES = Table(
    "endpoint_notes",
    "project, cancer type and endpoint: how well the endpoint suits it, as published",
    ("cohort", "project_id", "cancer_type", "endpoint"),
    (c.COHORT, c.PROJECT_ID, c.CANCER_TYPE, c.ENDPOINT, c.SUITABILITY, c.ENDPOINT_NOTE, c.CITATION),
)
SAMPLES = Table(
    "samples",
    "case, sample and aliquot",
    ("case_id", "sample_id", "aliquot_id"),
    (*_ID, c.SAMPLE_ID, c.SAMPLE_TYPE, c.ALIQUOT_ID, c.SOURCE),
)
CLINICAL = Table(
    "clinical",
    "case: baseline clinical variables",
    ("case_id",),
    (
        *_ID,
        c.AGE,
        c.SEX,
        c.STAGE,
        c.SUBSTAGE,
        c.T_STAGE,
        c.N_STAGE,
        c.M_STAGE,
        c.GRADE,
        c.HISTOLOGY,
        c.RACE,
        c.DIAGNOSIS_YEAR,
        c.SOURCE,
    ),
)
FOLLOW_UP = Table(
    "follow_up",
    "case: what became known after time zero; no training view has it",
    ("case_id",),
    (*_ID, c.TREATMENT_RESPONSE, c.ADJUVANT_TREATMENT, c.NEW_TUMOUR_EVENT, c.SOURCE),
)
RNA = Table(
    "rna",
    "case and gene panel",
    ("case_id", "panel_id"),
    (*_ID, c.PANEL_ID, c.VALUES, c.SOURCE),
    row_group_rows=64,  # measured: DuckDB takes twice as long to write 20,000 genes in one group (benchmarks/store.py)
)
COPY_NUMBER = Table("copy_number", "case and panel", ("case_id", "panel_id"), (*_ID, c.PANEL_ID, c.VALUES, c.SOURCE))
PROTEIN = Table("protein", "case and panel", ("case_id", "panel_id"), (*_ID, c.PANEL_ID, c.VALUES, c.SOURCE))
GENE_PANELS = Table(
    "gene_panels",
    "panel position, per cohort that uses the panel",
    ("cohort", "panel_id", "position"),
    (c.COHORT, c.PANEL_ID, c.MODALITY, c.POSITION, c.FEATURE, c.PANEL_UNIT),
)
_BY_FEATURE = (c.COHORT, c.PANEL_ID, c.LOOKUP, c.FEATURE, c.PANEL_UNIT, c.CASE_VALUES)
RNA_BY_FEATURE = Table(
    "rna_by_feature",
    "cohort, gene panel and gene: what rna holds, for questions about one gene",
    ("cohort", "panel_id", "feature"),
    _BY_FEATURE,
    row_group_rows=64,
    derived_from=RNA.name,
)
COPY_NUMBER_BY_FEATURE = Table(
    "copy_number_by_feature",
    "cohort, panel and feature: what copy_number holds, for questions about one feature",
    ("cohort", "panel_id", "feature"),
    _BY_FEATURE,
    row_group_rows=64,
    derived_from=COPY_NUMBER.name,
)
FEATURE_MAPPING = Table(
    "feature_mapping",
    "cohort, panel and feature of the source, where the contract maps names",
    ("cohort", "modality", "panel_id", "feature_found"),
    (c.COHORT, c.MODALITY, c.PANEL_ID, c.FEATURE_FOUND, c.MAPPED_FEATURE, c.MAPPING_STATE, c.SOURCE),
)
MUTATIONS = Table(
    "mutations",
    "case, gene and non-silent variant",
    ("case_id", "gene_symbol", "variant_classification", "protein_change"),
    (*_ID, c.GENE, c.CLASSIFICATION, c.PROTEIN_CHANGE, c.SOURCE),
)
REPORTS = Table("reports", "report document", ("report_id",), (c.REPORT_ID, *_ID, c.TEXT, c.NUM_CHARACTERS, c.SOURCE))
SLIDES = Table("slides", "slide", ("slide_id",), (c.SLIDE_ID, *_ID, c.MPP, c.MAGNIFICATION, c.STAIN, c.SOURCE))
PATCH_BAGS = Table(
    "patch_bags",
    "slide and encoder: where the patch embeddings lie",
    ("slide_id", "encoder"),
    (
        c.SLIDE_ID,
        *_ID,
        c.ENCODER,
        c.ENCODER_SHA256,
        c.DIM,
        c.NUM_PATCHES,
        c.SHARD,
        c.OFFSET,
        c.PAGE_CRC,
        c.BAG_SHA256,
        c.SOURCE,
    ),
)
MODALITY_MATRIX = Table("modality_matrix", "case and modality", ("case_id", "modality"), (*_ID, c.MODALITY, c.STATE, c.REASON))
FOLDS = Table("folds", "case and split", ("case_id", "split"), (*_ID, c.SPLIT, c.FOLD))
QUARANTINE = Table(
    "quarantine",
    "source row that was rejected or left out, or kept with a finding",
    (),
    (c.COHORT, c.TABLE_NAME, c.PATH, c.FOUND_ID, c.FOUND, c.REASON, c.EFFECT),
)
SOURCES = Table(
    "sources",
    "source file a cohort was read from",
    ("cohort", "path"),
    (c.COHORT, c.CONTRACT, c.PATH, c.SOURCE, c.NUM_BYTES),
)
REPORT_EMBEDDINGS = Table(
    "report_embeddings",
    "report document, text encoder, pooling and treatment of outcome words",
    ("report_id", "encoder", "pooling", "outcome_words"),
    (
        c.REPORT_ID,
        *_ID,
        c.TEXT_ENCODER,
        c.POOLING,
        c.OUTCOME_WORDS,
        c.ENCODER_SHA256,
        c.TEXT_SHA256,
        c.NUM_OUTCOME_WORDS,
        c.NUM_WINDOWS,
        c.EMBEDDING,
    ),
    row_group_rows=64,
)
PUBLICATIONS = Table(
    "publications",
    "scope and table: what was last written",
    ("scope", "table_name"),
    (c.SCOPE, c.TABLE_NAME, c.CONTENT_SHA256, c.NUM_ROWS, c.WRITE_KEY, c.WRITTEN_AT, c.CODE_VERSION),
    scope="scope",
)
PINS = Table(
    "pins",
    "snapshot that is kept under a name",
    ("name",),
    (c.PIN_NAME, c.PINNED, c.PIN_REASON, c.PINNED_AT),
    scope="name",
)
TOMBSTONES = Table(
    "tombstones",
    "identifier of an erased case, which is not taken in again",
    ("tombstone",),
    (c.TOMBSTONE, c.KEY_ID, c.ERASED_AT),
    scope="tombstone",
)
PREDICTIONS = Table(
    "predictions",
    "held-out case and model version",
    ("case_id", "model_version"),
    (
        *_ID,
        c.MODEL_VERSION,
        c.STUDY,
        c.SNAPSHOT_ID,
        c.CANCER_TYPE,
        c.ENDPOINT,
        c.FOLD,
        c.RISK,
        c.SURVIVAL,
        c.EDGES,
        c.EXPERTS,
        c.MISSING,
        c.ENCODERS,
        c.PROTOCOL,
    ),
    scope="model_version",
)
EVALUATIONS = Table(
    "evaluations",
    "model version, cancer type and model",
    ("model_version", "cancer_type", "model"),
    (
        c.MODEL_VERSION,
        c.STUDY,
        c.SNAPSHOT_ID,
        c.TRAINING_SET,
        c.CANCER_TYPE,
        c.MODEL_NAME,
        c.C_INDEX,
        c.C_LOW,
        c.C_HIGH,
        c.NUM_CASES,
        c.NUM_EVENTS,
        c.PROTOCOL,
    ),
    scope="model_version",
)

COHORT_TABLES = (
    CASES,
    CASE_ALIASES,
    ENDPOINTS,
    ENDPOINT_NOTES,
    CLINICAL,
    FOLLOW_UP,
    SAMPLES,
    RNA,
    COPY_NUMBER,
    PROTEIN,
    GENE_PANELS,
    RNA_BY_FEATURE,
    COPY_NUMBER_BY_FEATURE,
    FEATURE_MAPPING,
    MUTATIONS,
    REPORTS,
    SLIDES,
    PATCH_BAGS,
    MODALITY_MATRIX,
    FOLDS,
    QUARANTINE,
    SOURCES,
)
DERIVED_TABLES = (REPORT_EMBEDDINGS,)
MODEL_TABLES = (PREDICTIONS, EVALUATIONS)
ALL_TABLES = (*COHORT_TABLES, *DERIVED_TABLES, *MODEL_TABLES, PUBLICATIONS, PINS, TOMBSTONES)
BY_NAME = {table.name: table for table in ALL_TABLES}
