"""A store for the tests of SQL: sixty synthetic cases and two versions of a model's predictions and evaluation."""

import time
from pathlib import Path

import polars as pl
import yaml

from feature_store.contract import Contract
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import Write, publish, publish_cohort
from feature_store.synthetic import SyntheticConfig, write_landing
from feature_store.tables import EVALUATIONS, PREDICTIONS

ROOT = Path(__file__).parent.parent
RUNAWAY = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE hash(a.range, b.range) = 1"


def model_rows(case_ids, version, study="demo"):
    """Predictions of six held-out cases per fold, and the evaluation of two models."""
    n = len(case_ids)
    common = {"model_version": version, "study": study, "snapshot_id": 2, "protocol": "test"}
    predictions = pl.DataFrame(
        {
            "case_id": case_ids,
            "cohort": ["synthetic"] * n,
            "cancer_type": ["amber"] * n,
            "endpoint": ["os"] * n,
            "fold": [index % 2 for index in range(n)],
            "risk_score": [float(index) for index in range(n)],
            "survival": [[0.9, 0.5]] * n,
            "bin_edges_days": [[400.0]] * n,
            "experts": [[0.75, 0.0, 0.25], [0.5, 0.5, 0.0]] * (n // 2),
            "missing_modalities": [""] * n,
            "encoders": ["slide=synthetic"] * n,
        }
    ).with_columns(**{name: pl.lit(value) for name, value in common.items()})
    evaluations = pl.DataFrame(
        {
            "cancer_type": ["amber"] * 3,
            "model": ["mice", "cox", "rsf"],
            "c_index": [0.70, 0.65, 0.72],
            "c_index_low": [0.6] * 3,
            "c_index_high": [0.8] * 3,
            "num_cases": [n] * 3,
            "num_events": [5] * 3,
        }
    ).with_columns(training_set_id=pl.lit("t"), **{name: pl.lit(value) for name, value in common.items()})
    return [
        Write(PREDICTIONS, version, PREDICTIONS.conform(predictions)),
        Write(EVALUATIONS, version, EVALUATIONS.conform(evaluations)),
    ]


def make_sql_home(folder):
    """Make the store below a folder and return its home."""
    home = Home(folder)
    config = SyntheticConfig(num_cases=60, num_genes=40, slide_dim=16, mean_patches=20)
    raw = yaml.safe_load((ROOT / "cohorts" / "synthetic.yaml").read_text(encoding="utf-8"))
    raw["slides"][0]["encoder"]["dim"] = 16
    raw["max_quarantined_fraction"] = 0.5
    landing = write_landing(home.landing / "synthetic", config)
    lake = Lake(home)
    staged = stage(Contract.model_validate(raw), landing, home)
    publish_cohort(lake, staged, "synthetic")
    case_ids = staged.table("cases").filter(pl.col("cancer_type") == "amber").sort("case_id")["case_id"].to_list()[:12]
    for version in ("old", "new"):
        publish(lake, model_rows(case_ids, version), f"publish predictions of {version}")
        time.sleep(1.1 if version == "old" else 0)  # publications are dated to the second
    return home


def rows(analyst, query, parameters=None):
    """Return a query's rows as dicts."""
    return analyst.query(query, parameters).to_pylist()
