"""The cohort's split: random stratified folds, or folds given by files. The case is the unit; nothing is fitted here."""

import numpy as np
import polars as pl

from feature_store import sources, tables
from feature_store.contract import GivenSplit, Identifier, RandomSplit
from feature_store.errors import LeakageError
from feature_store.ingest.context import Ingest


def read_folds(ingest: Ingest, cases: pl.DataFrame, endpoints: pl.DataFrame) -> pl.DataFrame:
    """Return the table `folds`: for each case of the split, the fold in which it is held out."""
    split = ingest.contract.split
    folds = _random(split, cases, endpoints) if isinstance(split, RandomSplit) else _given(ingest, split, cases)
    cohort = pl.col("case_id").replace_strict(ingest.cohort_of, default=None, return_dtype=pl.String)
    return tables.FOLDS.conform(folds.with_columns(cohort=cohort, split=pl.lit(split.name)))


def _random(split: RandomSplit, cases: pl.DataFrame, endpoints: pl.DataFrame) -> pl.DataFrame:
    """Deal the cases of each (cancer type, event) stratum to the folds in a seeded random order."""
    outcome = endpoints.filter(pl.col("endpoint") == split.endpoint).select("case_id", "event_observed")
    frame = cases.select("case_id", "cancer_type").join(outcome, on="case_id").sort("cancer_type", "event_observed", "case_id")
    order = np.random.default_rng(split.seed).random(frame.height)
    dealt = frame.with_columns(_order=pl.Series(order)).sort("cancer_type", "event_observed", "_order")
    return dealt.with_row_index("_row").select("case_id", fold=pl.col("_row") % split.num_folds)


def _given(ingest: Ingest, split: GivenSplit, cases: pl.DataFrame) -> pl.DataFrame:
    """Read the held-out cases of each fold file. Raises LeakageError if a case is held out in two folds."""
    frames = []
    cancer_type_of = dict(cases.select("case_id", "cancer_type").iter_rows())
    for cancer_type in split.cancer_types:
        for fold in range(split.num_folds):
            for file in sources.find(ingest.landing, split.path.format(cancer_type=cancer_type, fold=fold)):
                raw = sources.read_table(file)
                sources.require_columns(raw, [split.held_out], file)
                ingest.files[file.relative] = file
                named = raw.drop_nulls(split.held_out)  # beside the longer list of the cases trained on
                frame = ingest.known(ingest.identify(named, Identifier(column=split.held_out), "folds", file), "folds", file)
                found = pl.col("_case_id").replace_strict(cancer_type_of, default=None, return_dtype=pl.String)
                ingest.reject(frame.filter(found != cancer_type), "folds", file, f"case is not of {cancer_type}", found)
                frames.append(frame.filter(found == cancer_type).select(case_id="_case_id", fold=pl.lit(fold)))
    folds = pl.concat(frames).unique(maintain_order=True)
    repeated = folds.filter(pl.col("case_id").is_duplicated())["case_id"].unique().sort()
    if len(repeated):
        raise LeakageError(
            f"split {split.name}: {len(repeated)} cases are held out in several folds, expected one each; first "
            f"{repeated[:3].to_list()}. Correct the fold files."
        )
    return folds
