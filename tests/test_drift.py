"""What is gone from a cohort's sources since it was published is told; what is new, moved or within the limit is not."""

import polars as pl
import pytest

from feature_store.drift import drift
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort


@pytest.fixture(scope="module")
def lake(clean, tmp_path_factory):
    lake = Lake(Home(tmp_path_factory.mktemp("home")))
    publish_cohort(lake, clean, "synthetic")
    return lake


def reversed_genes(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(frame.columns[0], *reversed(frame.columns[1:]))


@pytest.mark.parametrize(
    ("name", "edit", "expected"),
    [
        ("rna.csv.gz", reversed_genes, []),
        ("rna.csv.gz", lambda f: f.with_columns(NEW1_rnaseq=pl.lit("0.5")), []),
        ("clinical.csv", lambda f: f.filter(f["case_id"] != f["case_id"][0]), []),
        ("rna.csv.gz", lambda f: f.rename({"TP53_rnaseq": "P53_rnaseq"}), ["1 of 80 features of rna are gone, first ['TP53']"]),
        ("copy_number.csv", lambda f: f.drop("17p"), ["1 of 39 features of copy_number are gone, first ['17p']"]),
        ("clinical.csv", lambda f: f.with_columns(stage=pl.lit("")), ["clinical.stage has no value left"]),
        ("reports.csv", lambda f: f.head(f.height // 2), ["cases with report are gone"]),
        ("clinical.csv", lambda f: f.head(f.height // 2), ["40 of 80 cases are gone"]),
    ],
)
def test_drift(lake, corrupt, synthetic_contract, tmp_path, name, edit, expected):
    staged = stage(synthetic_contract, corrupt({name: edit}), Home(tmp_path / "staged"))
    found = drift(lake, staged, "synthetic")
    assert bool(found) == bool(expected), found
    assert all(any(text in line for line in found) for text in expected), found


def test_a_cohort_that_was_never_published_has_no_drift(lake, clean, tmp_path):
    assert drift(Lake(Home(tmp_path)), clean, "synthetic") == []
    assert drift(lake, clean, "another") == []


def test_a_column_that_the_published_table_did_not_have_yet_is_no_drift(clean, tmp_path):
    lake = Lake(Home(tmp_path))
    publish_cohort(lake, clean, "synthetic")
    with lake.transaction("an older version", "older") as transaction:
        transaction.connection.execute("ALTER TABLE clinical DROP COLUMN stage")
    assert drift(lake, clean, "synthetic") == []
