"""Every column of the store, declared once: type, unit, meaning, role, when it is known, allowed values.

What belongs here: the vocabulary. Which table holds which column, and the schema, DDL and comments made from it: tables.py.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["key", "baseline", "outcome", "post_treatment", "provenance"]


@dataclass(frozen=True)
class Column:
    """One column. `known_at` says when its value exists, relative to the cohort's time zero; training views refuse the rest."""

    name: str
    sql_type: str
    description: str
    unit: str = ""
    role: Role = "baseline"
    known_at: str = "time zero"
    allowed: tuple[str, ...] = ()
    is_required: bool = False
    minimum: float | None = None
    maximum: float | None = None

    @property
    def comment(self) -> str:
        """Return the text stored as the column's comment in the catalog."""
        unit = f" [{self.unit}]" if self.unit else ""
        allowed = f" One of: {', '.join(self.allowed)}." if self.allowed else ""
        return f"{self.description}{unit} Role: {self.role}; known at: {self.known_at}.{allowed}"


def key(name: str, description: str, sql_type: str = "VARCHAR", *, is_required: bool = True) -> Column:
    """Declare an identifier column."""
    return Column(name, sql_type, description, role="key", is_required=is_required)


def provenance(name: str, description: str, sql_type: str = "VARCHAR") -> Column:
    """Declare a column that says where a row came from."""
    return Column(name, sql_type, description, role="provenance", known_at="ingest", is_required=True)


MODALITIES = ("clinical", "rna", "copy_number", "protein", "mutations", "report", "slide")
ENDPOINTS = ("os", "dss", "dfi", "pfi")
STATES = ("present", "absent", "failed_check", "withdrawn")

CASE_ID = key("case_id", "Case identifier after normalisation (TCGA: the 12-character barcode).")
COHORT = key("cohort", "Cohort the case belongs to; Dagster's partition key.")
PROJECT_ID = key("project_id", "Project of the source, for example TCGA-BRCA.")
CANCER_TYPE = key("cancer_type", "Cancer type, for example brca; selects the specialised expert.")
SITE = key("site", "Tissue source site or hospital code.", is_required=False)
SOURCE = provenance("source_sha256", "SHA-256 of the source file the row was read from (table sources).")

ENDPOINT = Column(
    "endpoint",
    "VARCHAR",
    "Survival endpoint: overall, disease-specific, disease-free or progression-free.",
    role="key",
    allowed=ENDPOINTS,
    is_required=True,
)
DURATION = Column(
    "duration_days",
    "DOUBLE",
    "Time from time zero to the event or to censoring.",
    unit="days",
    role="outcome",
    known_at="end of follow-up",
    is_required=True,
    minimum=0.0,
)
EVENT = Column(
    "event_observed",
    "BOOLEAN",
    "True if the event happened, false if the case is censored.",
    role="outcome",
    known_at="end of follow-up",
    is_required=True,
)
FOLLOW_UP_END = Column(
    "follow_up_end_days",
    "DOUBLE",
    "Time from time zero to the end of everybody's follow-up (administrative censoring): nothing after it counts. Empty where "
    "the contract declares none. Its date is not kept: with the time it would tell when the case was diagnosed.",
    unit="days",
    role="outcome",
    known_at="end of follow-up",
    minimum=0.0,
)
SUITABILITY = Column(
    "suitability",
    "VARCHAR",
    "How well the endpoint suits the project, as published.",
    role="provenance",
    known_at="ingest",
    allowed=("recommended", "usable", "caution", "not_recommended", "not_available"),
    is_required=True,
)
ENDPOINT_NOTE = provenance("note", "Why, in the contract's words.")
CITATION = provenance("citation", "Where it was published.")

SAMPLE_ID = key("sample_id", "Sample identifier as the source has it.")
SAMPLE_TYPE = Column("sample_type", "VARCHAR", "Type of the sample as the contract maps it, for example Primary Tumor.")
ALIQUOT_ID = key("aliquot_id", "Identifier of an aliquot of the sample, where the source lists them.", is_required=False)

ALIAS = key("alias", "Another identifier of the same person; cases that share one are one person.")
ALIAS_SOURCE = key("source", "Whose identifier the alias is, as the contract declares it.")

AGE = Column("age_at_diagnosis_years", "DOUBLE", "Age at diagnosis.", unit="years", minimum=0.0, maximum=120.0)
SEX = Column("sex", "VARCHAR", "Sex as recorded.", allowed=("female", "male"))
STAGE = Column("stage", "DOUBLE", "Tumour stage as an ordinal: 0, I = 1 to IV = 4.", minimum=0.0, maximum=4.0)
SUBSTAGE = Column(
    "substage",
    "DOUBLE",
    "Tumour stage as an ordinal that keeps its letter: IIIA = 3.0, IIIB = 3.33, IIIC = 3.67, III without one = 3.3; I to IV "
    "alike; 0 = 0.",
    minimum=0.0,
    maximum=5.0,
)
T_STAGE = Column(
    "t_stage",
    "DOUBLE",
    "AJCC T as an ordinal: T1 = 1, each letter 0.2 more (T1a = 1.2, T1b = 1.4); T0 and Tis = 0.",
    minimum=0.0,
    maximum=5.0,
)
N_STAGE = Column("n_stage", "DOUBLE", "AJCC N as an ordinal, as t_stage; isolated tumour cells are N0.", minimum=0.0, maximum=4.0)
M_STAGE = Column("m_stage", "DOUBLE", "AJCC M as an ordinal: M0 = 0, M1 = 1, letters as t_stage.", minimum=0.0, maximum=2.0)
GRADE = Column("grade", "DOUBLE", "Histological grade as an ordinal, 1 to 4.", minimum=1.0, maximum=4.0)
HISTOLOGY = Column("histology", "VARCHAR", "Histological type as recorded by the source.")
RACE = Column("race", "VARCHAR", "Race as recorded by the source; for audits of fairness, not a model input by default.")
DIAGNOSIS_YEAR = Column("diagnosis_year", "INTEGER", "Calendar year of diagnosis.", unit="year", minimum=1900.0)

TREATMENT_RESPONSE = Column(
    "treatment_response",
    "VARCHAR",
    "Best response to the first treatment.",
    role="post_treatment",
    known_at="end of the first treatment",
    allowed=("complete_response", "partial_response", "stable_disease", "progressive_disease"),
)
ADJUVANT_TREATMENT = Column(
    "adjuvant_treatment",
    "VARCHAR",
    "Treatment given after the first one, as recorded by the source.",
    role="post_treatment",
    known_at="start of the adjuvant treatment",
)
NEW_TUMOUR_EVENT = Column(
    "new_tumour_event_days",
    "DOUBLE",
    "Time from time zero to the first new tumour.",
    unit="days",
    role="post_treatment",
    known_at="the new tumour event",
    minimum=0.0,
)

PANEL_ID = key("panel_id", "Content hash of modality, unit and the ordered feature names; see table gene_panels.")
VALUES = Column("values", "FLOAT[]", "One value per panel position; NaN where the source has none.", is_required=True)
MODALITY = Column("modality", "VARCHAR", "Input modality.", role="key", allowed=MODALITIES, is_required=True)
POSITION = Column("position", "INTEGER", "0-based position in the panel's vectors.", role="key", is_required=True)
FEATURE = key("feature", "Gene symbol, chromosome arm or protein at this position.")
PANEL_UNIT = Column("unit", "VARCHAR", "Unit of the panel's values as the contract declares it.")
LOOKUP = key("feature_lookup", "The feature in small letters: what it is looked up by.")
CASE_VALUES = Column(
    "values",
    "FLOAT[]",
    "One value per case of the cohort that has the panel, in order of case_id; NaN where the source has none.",
    is_required=True,
)
FEATURE_FOUND = key("feature_found", "Identifier of the feature in the source.")
MAPPED_FEATURE = Column("feature", "VARCHAR", "Name it maps to; empty without one name of its own (unmapped, ambiguous).")
MAPPING_STATE = Column(
    "state",
    "VARCHAR",
    "Only mapped features are in the panel: the others have no name, several, or one that another feature of the panel has too.",
    role="provenance",
    known_at="ingest",
    allowed=("mapped", "unmapped", "ambiguous", "collides"),
    is_required=True,
)

GENE = key("gene_symbol", "HGNC symbol as given by the source.")
CLASSIFICATION = Column("variant_classification", "VARCHAR", "MAF variant classification.")
PROTEIN_CHANGE = Column("protein_change", "VARCHAR", "HGVS protein change, short form.")

REPORT_ID = key("report_id", "Report document identifier.")
TEXT = Column("text", "VARCHAR", "Report text as extracted (OCR), untouched.", is_required=True)
NUM_CHARACTERS = Column("num_characters", "INTEGER", "Length of the text.", unit="characters", is_required=True)

TEXT_ENCODER = key("encoder", "Text encoder that made the embedding.")
POOLING = Column(
    "pooling", "VARCHAR", "What stands for a text: the mean over its tokens, or over its windows' class tokens.",
    role="key", allowed=("mean", "cls"), is_required=True,
)  # fmt: skip
OUTCOME_WORDS = Column(
    "outcome_words", "VARCHAR", "What was done with words about the outcome before encoding: left out, or only counted.",
    role="key", allowed=("mask", "flag"), is_required=True,
)  # fmt: skip
NUM_OUTCOME_WORDS = Column("num_outcome_words", "INTEGER", "Places in the text that speak of the outcome.", role="provenance")
TEXT_SHA256 = provenance("text_sha256", "SHA-256 of the report's text in the store, which the embedding is of.")
NUM_WINDOWS = Column("num_windows", "INTEGER", "Windows that the text was cut into.", is_required=True, minimum=1.0)
EMBEDDING = Column("embedding", "FLOAT[]", "The text's vector.", is_required=True)

SLIDE_ID = key("slide_id", "Slide identifier.")
MPP = Column("mpp", "DOUBLE", "Microns per pixel at level 0.", unit="µm/px", minimum=0.0)
MAGNIFICATION = Column("magnification", "DOUBLE", "Objective power of the scan.", minimum=0.0)
STAIN = Column("stain", "VARCHAR", "Stain, for example HE.")
ENCODER = Column("encoder", "VARCHAR", "Patch encoder that made the embeddings.", role="key", is_required=True)
ENCODER_SHA256 = provenance("encoder_sha256", "SHA-256 of the encoder's weights or definition.")
SHARD = Column("shard", "VARCHAR", "Bag shard file under bags/ (docs/bags.md).", role="provenance", is_required=True)
OFFSET = Column("offset_bytes", "BIGINT", "Offset of the first embedding value in the shard.", unit="bytes", role="provenance")
NUM_PATCHES = Column("num_patches", "INTEGER", "Patches in the bag.", is_required=True, minimum=1.0)
DIM = Column("dim", "INTEGER", "Embedding width.", is_required=True, minimum=1.0)
PAGE_CRC = Column("page_crc32", "BIGINT", "CRC-32 of the embedding page as Parquet stores it.", role="provenance")
BAG_SHA256 = provenance("bag_sha256", "SHA-256 of the bag's float16 bytes.")

STATE = Column("state", "VARCHAR", "Whether the case has the modality.", allowed=STATES, is_required=True)
REASON = Column("reason", "VARCHAR", "Why the state, or the rejection, is what it is.")

SPLIT = key("split", "Name of the split.")
FOLD = Column("fold", "INTEGER", "Fold in which the case is held out.", role="key", is_required=True, minimum=0.0)

FOUND = Column("found", "VARCHAR", "The offending value as found.", role="provenance")
FOUND_ID = Column("case_id_found", "VARCHAR", "Case identifier exactly as found in the source.", role="provenance")
EFFECT = Column(
    "effect",
    "VARCHAR",
    "What became of the row: rejected; left out, as the contract declares; or kept, with what was found.",
    role="provenance",
    known_at="ingest",
    allowed=("rejected", "left_out", "kept"),
)
TABLE_NAME = key("table_name", "Table the row was meant for.")
PATH = provenance("path", "Path of the source, relative to the landing folder.")
NUM_BYTES = Column("num_bytes", "BIGINT", "Size of the source.", unit="bytes", role="provenance", is_required=True)
CONTRACT = provenance("contract", "Name of the cohort contract.")

CONTENT_SHA256 = provenance("content_sha256", "SHA-256 of the table's rows for this scope.")
WRITE_KEY = provenance("idempotency_key", "Idempotency key of the write.")
NUM_ROWS = Column("num_rows", "BIGINT", "Rows written.", role="provenance", is_required=True)
CODE_VERSION = Column(
    "code_version",
    "VARCHAR",
    "Hash of the ingest code that made the rows, as first written; empty for a model's rows, whose version names its code.",
    role="provenance",
    known_at="ingest",
)
WRITTEN_AT = provenance("written_at", "Time of the write, UTC, ISO 8601.")
PIN_NAME = key("name", "Name of the pinned snapshot.")
PINNED = Column("snapshot_id", "BIGINT", "Snapshot that is kept.", role="provenance", is_required=True)
PIN_REASON = Column("reason", "VARCHAR", "Why it is kept, in the words of who pinned it.", role="provenance")
PINNED_AT = provenance("pinned_at", "Time of pinning, UTC, ISO 8601.")
TOMBSTONE = key("tombstone", "HMAC-SHA256 of an erased case's identifier under the home's erasure key; says nothing without it.")
KEY_ID = provenance("key_id", "Which erasure key made the tombstone.")
ERASED_AT = provenance("erased_at", "Time of the erasure, UTC, ISO 8601.")
SCOPE = key("scope", "What the write replaced: a cohort, or a model version.")

MODEL_VERSION = key("model_version", "Content hash of study, training set, seeds and code: the trained model.")
STUDY = key("study", "Name of the study (studies/<name>.yaml).")
TRAINING_SET = provenance("training_set_id", "Content hash of the rows, endpoint and split the model was trained on.")
SNAPSHOT_ID = provenance("snapshot_id", "Snapshot the training set was read from.", "BIGINT")
PROTOCOL = provenance("protocol", "Evaluation protocol in words.")
MODEL_NAME = key("model", "mice, or the baseline's name.")
DERIVED = "prediction"
RISK = Column("risk_score", "DOUBLE", "Out-of-fold risk score; higher is worse; comparable within a fold.", known_at=DERIVED)
SURVIVAL = Column("survival", "FLOAT[]", "Predicted survival probability at the end of each time bin.", known_at=DERIVED)
EDGES = Column("bin_edges_days", "FLOAT[]", "Inner edges of the time bins.", unit="days", known_at=DERIVED)
EXPERTS = Column("experts", "FLOAT[]", "Weight of each overlapping expert.", known_at=DERIVED)
MISSING = Column("missing_modalities", "VARCHAR", "Comma-separated modalities the case lacked.", known_at=DERIVED)
ENCODERS = Column("encoders", "VARCHAR", "Encoders behind the features, as modality=encoder.", known_at=DERIVED)
C_INDEX = Column("c_index", "DOUBLE", "Harrell's C on held-out cases, mean over folds.", role="outcome", known_at="evaluation")
C_LOW = Column("c_index_low", "DOUBLE", "Lower bound of the 95% bootstrap interval.", role="outcome", known_at="evaluation")
C_HIGH = Column("c_index_high", "DOUBLE", "Upper bound of the 95% bootstrap interval.", role="outcome", known_at="evaluation")
NUM_CASES = Column("num_cases", "INTEGER", "Held-out cases scored.", role="outcome", known_at="evaluation")
NUM_EVENTS = Column("num_events", "INTEGER", "Events among them.", role="outcome", known_at="evaluation")
