"""Training sets by hand, for tests that need no store: what is not given is absent in every case."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import sparse

from feature_store.training_set import CLINICAL_FEATURES, Mutations, TrainingSet, Vectors


def vectors(features: Sequence[str], values: np.ndarray) -> Vectors:
    """Return a vector modality; a case of nan alone is without."""
    values = np.asarray(values, np.float32)
    return Vectors(tuple(features), values, np.isfinite(values).any(axis=1))


def mutations(genes: Sequence[str], counts: np.ndarray, is_present: np.ndarray | None = None) -> Mutations:
    """Return variants by gene; all cases were sequenced unless `is_present` says otherwise."""
    counts = np.asarray(counts, np.float32)
    return Mutations(tuple(genes), sparse.csr_matrix(counts), np.ones(len(counts), bool) if is_present is None else is_present)


def training_set(
    cancer_type: Sequence[str],
    *,
    fold: Sequence[int | None] | None = None,
    event_observed: np.ndarray | None = None,
    clinical: dict[str, Sequence[object]] | None = None,
    reports: Sequence[str | None] | None = None,
    **parts: Vectors | Mutations,
) -> TrainingSet:
    """Return a training set of one case per cancer type named; `parts` are its modalities by name."""
    n = len(cancer_type)
    nothing = vectors((), np.empty((n, 0)))
    clinical_columns = dict.fromkeys(CLINICAL_FEATURES, [None] * n) | (clinical or {})
    modalities = {
        "rna": nothing,
        "copy_number": nothing,
        "protein": nothing,
        "report_embeddings": nothing,
        "mutations": mutations((), np.empty((n, 0)), np.zeros(n, bool)),
    }
    return TrainingSet(
        training_set_id="by hand",
        snapshot_id=0,
        endpoint="os",
        split="by hand",
        cases=pl.DataFrame(
            {
                "case_id": [f"C-{index:04}" for index in range(n)],
                "cancer_type": list(cancer_type),
                "fold": pl.Series([None] * n if fold is None else list(fold), dtype=pl.Int64),
            }
        ),
        duration_days=np.arange(1.0, n + 1),
        event_observed=np.arange(n) % 2 == 0 if event_observed is None else event_observed,
        clinical=pl.DataFrame(clinical_columns, strict=False),
        reports=tuple(reports or [None] * n),
        bags=((),) * n,
        missing_modalities=("",) * n,
        **{**modalities, **parts},  # type: ignore[arg-type]
    )
