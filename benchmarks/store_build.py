"""The store of benchmarks/store.py: random values in the shape of TCGA, published the way ingest publishes.

What belongs here: making rows and publishing them. Measuring is store_own.py's, other tools' files are store_peers.py's.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from feature_store import tables as t
from feature_store.bag_file import write_shards
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.columns import MODALITIES
from feature_store.home import Home
from feature_store.ingest.omics import panel_of
from feature_store.publish import Write
from feature_store.tables import COHORT_TABLES, Table
from feature_store.transposed import by_feature
from feature_store.vector_cache import Matrix

UNIT = "log2(TPM + 1)"
ENCODER = EncoderInfo("random", "0" * 64, 64, "none")
PATCHES_PER_BAG = 16  # the figures are about how many bags there are; how fast a large one is read: benchmarks/bags.py
_SHRINK = 0.92  # of 33 cohorts with 12,000 cases the first has 1,025, as TCGA-BRCA, the last 71
_ARMS = [f"{chromosome}{arm}" for chromosome in range(1, 23) for arm in "pq"]
_STATES = ("present", "absent", "failed_check")


@dataclass(frozen=True)
class Size:
    """What is built: `num_cases` cases with a bag each, over `num_cohorts` cohorts, and `num_genes` values a case."""

    num_cases: int = 12_000
    num_genes: int = 20_245
    num_cohorts: int = 33

    @property
    def genes(self) -> list[str]:
        """Return the genes' names, sorted."""
        return [f"GENE{index:05}" for index in range(self.num_genes)]

    @property
    def value_bytes(self) -> int:
        """Return the bytes of all expression values."""
        return self.num_cases * self.num_genes * 4

    def cases(self) -> Iterator[tuple[str, list[str]]]:
        """Yield (cohort, its case ids), the largest cohort first."""
        shares = _SHRINK ** np.arange(self.num_cohorts)
        ends = np.round(np.cumsum(shares) / shares.sum() * self.num_cases).astype(int)
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            yield f"COHORT-{index:02}", [f"CASE-{number:06}" for number in range(start, end)]


def cohort_writes(home: Home, size: Size, cohort: str, case_ids: list[str], seed: int = 0) -> list[Write]:
    """Return the writes of all tables of a cohort, one bag a case; the bags' shards are written to the store."""
    rng = np.random.default_rng([seed, *cohort.encode()])
    n, ids = len(case_ids), {"case_id": case_ids}
    slides = {"slide_id": [f"{case_id}-DX1" for case_id in case_ids], **ids}
    bags = (
        SlideBag(slide_id, case_id, np.zeros((PATCHES_PER_BAG, 2), np.int32), values, "0" * 64, 256, 0.5, 20.0)
        for slide_id, case_id, values in zip(
            *slides.values(), rng.random((n, PATCHES_PER_BAG, ENCODER.dim), np.float32), strict=True
        )
    )
    records = pl.DataFrame([vars(record) for record in write_shards(home.bags, bags, ENCODER)])
    events = {"duration_days": rng.uniform(1, 4_000, n), "event_observed": rng.random(n) < 0.4}
    text = [f"Report of {case_id}. " * 60 for case_id in case_ids]
    matrix = {
        "case_id": np.repeat(case_ids, len(MODALITIES)),
        "modality": list(MODALITIES) * n,
        "state": rng.choice(_STATES, n * len(MODALITIES), p=(0.8, 0.15, 0.05)),
    }
    variants = {"case_id": np.repeat(case_ids, 40), "gene_symbol": rng.choice(size.genes, 40 * n)}
    frames = {
        t.CASES: pl.DataFrame({**ids, "project_id": [cohort] * n, "cancer_type": [cohort.lower()] * n}),
        t.ENDPOINTS: pl.DataFrame({**ids, "endpoint": ["os"] * n, **events}),
        t.CLINICAL: pl.DataFrame(
            {**ids, "age_at_diagnosis_years": rng.uniform(20, 90, n), "sex": rng.choice(("female", "male"), n)}
        ),
        t.MUTATIONS: pl.DataFrame(variants).with_columns(variant_classification=pl.lit("Missense_Mutation")).unique(),
        t.REPORTS: pl.DataFrame({"report_id": case_ids, **ids, "text": text, "num_characters": [len(one) for one in text]}),
        t.SLIDES: pl.DataFrame({**slides, "mpp": [0.5] * n, "magnification": [20.0] * n, "stain": ["HE"] * n}),
        t.PATCH_BAGS: records.with_columns(encoder_sha256=pl.lit("0" * 64)),
        t.MODALITY_MATRIX: pl.DataFrame(matrix),
        t.FOLDS: pl.DataFrame({**ids, "split": ["random-5"] * n, "fold": rng.integers(0, 5, n)}),
    }
    writes = [Write(table, cohort, filled(table, frame, cohort)) for table, frame in frames.items()]
    writes += vector_writes(cohort, case_ids, size.genes, rng.standard_normal((n, size.num_genes), np.float32), t.RNA_BY_FEATURE)
    writes += vector_writes(cohort, case_ids, _ARMS, rng.standard_normal((n, len(_ARMS)), np.float32), t.COPY_NUMBER_BY_FEATURE)
    panels = [write for write in writes if write.table == t.GENE_PANELS]
    writes = [write for write in writes if write.table != t.GENE_PANELS]
    writes.append(Write(t.GENE_PANELS, cohort, pl.concat([write.rows for write in panels])))
    missing = [table for table in COHORT_TABLES if table not in {write.table for write in writes}]
    return [*writes, *(Write(table, cohort, table.empty()) for table in missing)]


def vector_writes(cohort: str, case_ids: list[str], features: list[str], values: Matrix, turned: Table) -> list[Write]:
    """Return the writes of a vector table, of its panel, and of `turned`, the table that is derived from it."""
    table = t.BY_NAME[turned.derived_from]
    panel_id = panel_of(table.name, UNIT, features)
    panel = pl.DataFrame({"position": range(len(features)), "feature": features}).with_columns(
        panel_id=pl.lit(panel_id), modality=pl.lit(table.name), unit=pl.lit(UNIT)
    )
    panels = filled(t.GENE_PANELS, panel, cohort)
    lists = pl.Series("values", values, dtype=pl.Array(pl.Float32, values.shape[1])).cast(pl.List(pl.Float32))
    vectors = filled(table, pl.DataFrame({"case_id": case_ids, "values": lists}).with_columns(panel_id=pl.lit(panel_id)), cohort)
    return [
        Write(table, cohort, vectors),
        Write(t.GENE_PANELS, cohort, panels),
        Write(turned, cohort, by_feature(vectors, panels, turned)),
    ]


def one_cohort_writes(size: Size) -> list[Write]:
    """Return the writes of the tables behind a gene's query, with all cases in one cohort: the longest rows a gene can have."""
    case_ids = [case_id for _, several in size.cases() for case_id in several]
    values = np.random.default_rng(1).standard_normal((size.num_cases, size.num_genes), np.float32)
    cases = pl.DataFrame({"case_id": case_ids}).with_columns(project_id=pl.lit("all"), cancer_type=pl.lit("all"))
    writes = vector_writes("ALL", case_ids, size.genes, values, t.RNA_BY_FEATURE)
    return [Write(t.CASES, "ALL", filled(t.CASES, cases, "ALL")), *writes]


def filled(table: Table, frame: pl.DataFrame, cohort: str) -> pl.DataFrame:
    """Return `frame` as rows of `table`: what it lacks is the cohort, a source's hash, or empty."""
    values = {"cohort": cohort, "source_sha256": hashlib.sha256(cohort.encode()).hexdigest()}
    missing = {name: pl.lit(values.get(name)) for name in table.schema if name not in frame.columns}
    return table.conform(frame.with_columns(**missing))
