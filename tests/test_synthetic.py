"""The synthetic cohort: same bytes for the same config, complete or absent, a known truth, and the dirt it names."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest

from feature_store import synthetic_files
from feature_store.errors import LandingTakenError
from feature_store.synthetic import MODALITIES, SyntheticConfig, oracle, write_landing

SMALL = SyntheticConfig(num_cases=40, mean_patches=30, slide_dim=32, num_genes=80)
# The default cohort with tiny slides: everything about cases is the same as in `make demo`.
COHORT = SyntheticConfig(mean_patches=8, slide_dim=8)
TABLES = {
    "rna": "rna.csv.gz", "copy_number": "copy_number.csv", "mutation": "mutations.csv", "report": "reports.csv",
    "slide": "slides.csv",
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landing(tmp_path_factory.mktemp("small") / "landing", SMALL)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_landing(tmp_path_factory.mktemp("cohort") / "landing", COHORT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def table(folder: Path, file: str) -> pl.DataFrame:
    return pl.read_csv(folder / file, infer_schema=False)


def planted(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "MANIFEST.json").read_text("utf-8"))["planted"]


def concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's C by counting all pairs; higher risk should die earlier."""
    comparable = (time[:, None] < time) & event[:, None]
    agree = (risk[:, None] > risk) + 0.5 * (risk[:, None] == risk)
    return float((agree * comparable).sum() / comparable.sum())


# --- bytes and folder


def test_same_config_gives_the_same_bytes_in_another_process_and_place(small: Path, tmp_path: Path) -> None:
    other = tmp_path / "deep" / "elsewhere"
    code = (
        "import pathlib, sys; from feature_store.synthetic import *; "
        "write_landing(pathlib.Path(sys.argv[1]), "
        "SyntheticConfig(num_cases=40, mean_patches=30, slide_dim=32, num_genes=80))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, cwd=root, env=environment, timeout=60)
    assert contents(other) == contents(small)


def test_another_seed_gives_other_bytes(small: Path, tmp_path: Path) -> None:
    other = contents(write_landing(tmp_path / "landing", dataclasses.replace(SMALL, seed=1)))
    ours = contents(small)
    assert all(other[name] != ours[name] for name in ("clinical.csv", *TABLES.values()))


def test_sections_are_independent(small: Path, tmp_path: Path) -> None:
    changed = dataclasses.replace(SMALL, num_genes=90, slide_dim=16, fraction_with_second_slide=0.5, has_dirt=False)
    clean = dataclasses.replace(SMALL, has_dirt=False)
    other = contents(write_landing(tmp_path / "changed", changed))
    ours = contents(write_landing(tmp_path / "clean", clean))
    for name in ("clinical.csv", "copy_number.csv", "reports.csv"):
        assert other[name] == ours[name]


def test_second_call_writes_nothing(small: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    assert write_landing(small, SMALL) == small
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*")} == before


def test_a_folder_with_anything_else_is_refused_and_left_alone(small: Path, tmp_path: Path) -> None:
    before = contents(small)
    with pytest.raises(LandingTakenError, match="same config"):
        write_landing(small, dataclasses.replace(SMALL, seed=3))
    assert contents(small) == before
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(LandingTakenError):
        write_landing(tmp_path, SMALL)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_a_failure_midway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_files, "write_slide", fail)
    with pytest.raises(KeyboardInterrupt):
        write_landing(tmp_path / "landing", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken_and_progress_reaches_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "feature_store.progress"):
        write_landing(tmp_path, SMALL)
    num_slides = len(table(tmp_path, "slides.csv"))
    assert f"slides of the landing folder: {num_slides} of {num_slides}, 0 s left" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"num_cases": 39}, {"num_cases": 10_000}, {"cancer_types": ()}, {"slide_dim": 0}, {"mean_patches": 1}]
)
def test_a_config_too_small_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="40 to 9999 cases"):
        dataclasses.replace(SMALL, **wrong)


# --- layout


def test_table_columns(small: Path) -> None:
    genes = synthetic_files.gene_symbols(80)
    assert genes[:4] == ["TP53", "EGFR", "ERBB2", "MYC"]
    assert genes[59:61] == ["PTPRC", "SYNG0001"]
    assert len(set(genes)) == 80
    arms = synthetic_files.ARMS
    assert (len(arms), arms[:2], arms[-1]) == (39, ("1p", "1q"), "22q")
    assert not {"13p", "14p", "15p", "21p", "22p"} & set(arms)
    expected = {
        "clinical.csv": "case_id cancer_type age_years gender stage grade diagnosis_year vital_status OS OS.time PFI PFI.time",
        "rna.csv.gz": " ".join(["case_id", *(f"{gene}_rnaseq" for gene in genes)]),
        "copy_number.csv": " ".join(["case_id", *arms]),
        "mutations.csv": "case_id Hugo_Symbol Variant_Classification HGVSp_Short Tumor_Sample_Barcode",
        "reports.csv": "report_id case_id text",
        "slides.csv": "slide_id case_id mpp magnification stain",
    }
    assert {file: " ".join(table(small, file).columns) for file in expected} == expected
    top = {p.name for p in small.iterdir()}
    assert top == {*expected, "slides", "MANIFEST.json"}


def test_clinical_values(cohort: Path) -> None:
    clinical = table(cohort, "clinical.csv")
    assert set(clinical["cancer_type"]) == set(COHORT.cancer_types)
    assert set(clinical["gender"]) == {"FEMALE", "MALE"}
    assert set(clinical["stage"]) == {"Stage I", "Stage II", "Stage III", "Stage IV", "[Not Available]"}
    assert set(clinical["grade"]) == {"G1", "G2", "G3", "G4"}
    assert clinical["age_years"].cast(pl.Int64).is_between(20, 95).all()
    assert clinical["case_id"].str.contains(r"^SYN-[A-D][A-D]-\d{4}$").sum() == len(clinical) - 2
    clean = clinical.filter(pl.col("OS").is_in(["0", "1"]) & (pl.col("OS.time").cast(pl.Int64) > 0))
    numbers = clean.select(pl.col("OS", "OS.time", "PFI", "PFI.time").cast(pl.Int64))
    assert (numbers["PFI.time"] <= numbers["OS.time"]).all()


def test_omics_values(cohort: Path) -> None:
    rna = table(cohort, "rna.csv.gz").drop("case_id").cast(pl.Float64).to_numpy()
    assert np.abs(rna.mean(axis=0)).max() < 0.2
    assert np.abs(rna.std(axis=0) - 1).max() < 0.2
    assert gzip.decompress((cohort / "rna.csv.gz").read_bytes()).startswith(b"case_id,TP53_rnaseq,")
    calls = table(cohort, "copy_number.csv").drop("case_id")
    assert set(calls.unpivot()["value"]) == {"-1", "0", "1"}
    mutations = table(cohort, "mutations.csv")
    assert (mutations["HGVSp_Short"].str.starts_with("p.")).all()
    assert mutations["Tumor_Sample_Barcode"].str.contains(r"^SYN-\w\w-\d{4}-01A$").all()


def test_reports_vary_and_some_cases_have_an_addendum(cohort: Path) -> None:
    reports = table(cohort, "reports.csv")
    assert reports["report_id"].is_unique().all()
    assert reports["text"].n_unique() > 0.95 * len(reports)
    assert np.median(reports["text"].str.len_chars()) > 400
    assert 15 < reports["case_id"].is_duplicated().sum() / 2 < 30


def test_slides_are_laid_out_as_trident_does(small: Path) -> None:
    slides = {row["slide_id"]: row for row in table(small, "slides.csv").iter_rows(named=True)}
    spoiled = {item["ids"][0] for item in planted(small).values() if item["expected"] == "slide refused"}
    files = {p.stem: p for p in (small / "slides").iterdir()}
    assert set(files) <= set(slides)
    for slide_id in set(files) - spoiled:
        with h5py.File(files[slide_id]) as file:
            features, coords = file["features"], file["coords"]
            magnification = int(slides[slide_id]["magnification"])
            assert (features.dtype, features.shape[1], features.chunks) == (np.float16, SMALL.slide_dim, None)
            assert (coords.dtype, coords.shape) == (np.int64, (len(features), 2))
            about = dict(coords.attrs)
            step = about["patch_size_level0"]
            assert step == 256 * magnification // 20
            assert (about["patch_size"], about["target_magnification"], about["overlap"]) == (256, 20, 0)
            assert (about["level0_magnification"], about["name"]) == (magnification, slide_id)
            assert float(slides[slide_id]["mpp"]) * magnification == 10
            assert (coords[:] % step == 0).all()
            assert len(np.unique(coords[:], axis=0)) == len(coords)
            assert (coords[:].max(axis=0) + step <= (about["level0_width"], about["level0_height"])).all()
            assert np.isfinite(features[:]).all()


def test_patch_counts_have_the_mean_of_the_config(tmp_path: Path) -> None:
    config = SyntheticConfig(mean_patches=50, slide_dim=8, num_cases=200, num_genes=80, has_dirt=False)
    folder = write_landing(tmp_path / "landing", config)
    counts = []
    for path in (folder / "slides").iterdir():
        with h5py.File(path) as file:
            counts.append(len(file["features"]))
    assert 42 < np.mean(counts) < 58
    assert min(counts) >= 5
    assert max(counts) <= 500
    assert len(counts) > 150


# --- truth


@pytest.fixture(scope="module")
def outcome(cohort: Path) -> pl.DataFrame:
    """Cases with an untouched outcome: `OS`, `OS.time` and the oracle's columns."""
    touched = {case_id for item in planted(cohort).values() for case_id in item["case_ids"]}
    clinical = table(cohort, "clinical.csv").filter(~pl.col("case_id").is_in(touched))
    outcome = clinical.select("case_id", "cancer_type", pl.col("OS", "OS.time").cast(pl.Int64))
    return outcome.join(oracle(COHORT), on="case_id", validate="1:1")


def oracle_c(outcome: pl.DataFrame, parts: list[str]) -> float:
    risk = outcome.select(pl.sum_horizontal(parts)).to_series().to_numpy()
    return concordance(outcome["OS.time"].to_numpy(), outcome["OS"].to_numpy() == 1, risk)


def test_the_oracle_sums_up(outcome: pl.DataFrame) -> None:
    truth = oracle(COHORT)
    assert truth.columns == ["case_id", "log_hazard", "baseline", *MODALITIES]
    assert len(truth) == COHORT.num_cases
    total = truth.select(pl.sum_horizontal("baseline", *MODALITIES)).to_series()
    assert np.allclose(total, truth["log_hazard"])
    assert len(outcome) > 0.95 * COHORT.num_cases


def test_the_oracle_orders_survival_and_needs_every_modality(outcome: pl.DataFrame) -> None:
    every = ["baseline", *MODALITIES]
    c_all = oracle_c(outcome, every)
    assert 0.78 < c_all < 0.88
    for part in MODALITIES:
        assert oracle_c(outcome, [p for p in every if p != part]) < c_all - 0.01, part
        assert 0.55 < oracle_c(outcome, [part]) < 0.68, part
    assert oracle_c(outcome, ["baseline", "clinical", "rna"]) < c_all - 0.1


def test_parts_are_about_equal_and_independent() -> None:
    parts = oracle(dataclasses.replace(COHORT, num_cases=4000)).select(MODALITIES).to_numpy()
    assert parts.std(axis=0) == pytest.approx([0.65, 0.70, 0.65, 0.65, 0.65, 0.65], abs=0.03)
    assert np.abs(np.corrcoef(parts.T) - np.eye(6)).max() < 0.06


def test_half_of_the_cases_die_and_each_type_has_events(outcome: pl.DataFrame) -> None:
    assert 0.45 < np.mean(outcome["OS"].to_numpy()) < 0.55
    assert (outcome.group_by("cancer_type").agg(pl.col("OS").sum())["OS"] > 25).all()


def test_missing_modalities(cohort: Path) -> None:
    cases = set(oracle(COHORT)["case_id"])
    seen = {}
    for name, file in TABLES.items():
        ids = table(cohort, file)["case_id"].str.to_uppercase().str.replace_all("\u2013", "-").str.slice(0, 11)
        seen[name] = set(ids) & cases
        assert len(seen[name]) == round(getattr(COHORT, f"fraction_with_{name}") * len(cases)), name
    assert len(set.intersection(*seen.values())) >= 0.4 * len(cases)
    slides = table(cohort, "slides.csv")
    assert 0.04 < slides["case_id"].is_duplicated().sum() / 2 / len(seen["slide"]) < 0.13


def test_the_share_of_one_prototype_carries_the_slide_factor() -> None:
    bank = synthetic_files.PatchBank(64, 1000, 2, np.random.default_rng(0))
    for share in (0.02, 0.3):
        features, cells = bank.draw(1000, share, 1, np.random.default_rng(1))
        distance = ((features.astype(np.float32)[:, None] - bank.prototypes_KD) ** 2).sum(axis=2)
        is_grave = distance.argmin(axis=1) == 0
        assert is_grave.mean() == pytest.approx(share, abs=0.01)
        assert (cells[is_grave].std(axis=0) < 0.8 * cells.std(axis=0)).all()  # they lie together


# --- dirt


def test_planted_dirt_is_there_and_little(cohort: Path) -> None:
    dirt = planted(cohort)
    assert len(dirt) == 16
    assert all(item["count"] == len(item["ids"]) for item in dirt.values())
    touched = [case_id for item in dirt.values() for case_id in item["case_ids"]]
    assert len(touched) == len(set(touched)) < 0.05 * COHORT.num_cases
    assert set(touched) <= set(oracle(COHORT)["case_id"])
    for name, item in dirt.items():
        if item["file"].startswith("slides/"):
            assert (cohort / item["file"]).exists() == (name != "slide_file_missing"), name
        else:
            assert set(item["ids"]) <= set(table(cohort, item["file"])["case_id"]), name


def test_each_kind_of_dirt(small: Path) -> None:
    dirt, clinical = planted(small), table(small, "clinical.csv")

    def rows(name: str, frame: pl.DataFrame = clinical) -> pl.DataFrame:
        return frame.filter(pl.col("case_id").is_in(dirt[name]["ids"]))

    duplicate, conflict = rows("exact_duplicate_row"), rows("conflicting_duplicate")
    assert (len(duplicate), duplicate.n_unique()) == (2, 1)
    assert (len(conflict), set(conflict["OS"]), conflict["OS.time"].n_unique()) == (2, {"0", "1"}, 2)
    assert dirt["malformed_id"]["ids"] == ["SYN-A-12X"]
    assert rows("event_coded_dead")["OS"].to_list() == ["Dead"]
    assert rows("zero_time")["OS.time"].to_list() == ["0"]
    assert rows("negative_time")["OS.time"].to_list() == ["-12"]
    for name, spoil in {
        "trailing_space": lambda case_id: f"{case_id} ",
        "unicode_dash": lambda case_id: case_id.replace("-", "\u2013"),
        "lower_case": str.lower,
        "sample_barcode": lambda case_id: f"{case_id}-01A",
    }.items():
        assert dirt[name]["ids"] == [spoil(case_id) for case_id in dirt[name]["case_ids"]], name
        assert not rows(name, table(small, dirt[name]["file"])).is_empty(), name
    assert len(rows("unknown_case_rna", table(small, "rna.csv.gz"))) == 2
    reports = table(small, "reports.csv")
    assert rows("short_report", reports)["text"].str.len_chars().to_list() == [13]
    assert rows("unknown_case_report", reports)["report_id"].to_list() == ["SYN-ZZ-9003-R1"]


def test_spoiled_slides(small: Path) -> None:
    dirt = planted(small)
    with h5py.File(small / dirt["nan_features"]["file"]) as file:
        assert np.isnan(file["features"][:]).any()
    with h5py.File(small / dirt["coords_count_differs"]["file"]) as file:
        assert len(file["coords"]) == len(file["features"]) - 3
    missing = dirt["slide_file_missing"]
    assert not (small / missing["file"]).exists()
    assert missing["ids"][0] in set(table(small, "slides.csv")["slide_id"])


def test_without_dirt_nothing_is_planted(tmp_path: Path) -> None:
    folder = write_landing(tmp_path / "landing", dataclasses.replace(SMALL, has_dirt=False))
    assert planted(folder) == {}
    clinical = table(folder, "clinical.csv")
    assert (len(clinical), clinical["case_id"].n_unique()) == (40, 40)
    assert {p.stem for p in (folder / "slides").iterdir()} == set(table(folder, "slides.csv")["slide_id"])


def test_a_modality_can_be_left_out_but_not_spoiled_then(tmp_path: Path) -> None:
    without = dataclasses.replace(SMALL, fraction_with_slide=0.0)
    with pytest.raises(ValueError, match=r"slides.csv, expected one"):
        write_landing(tmp_path / "dirty", without)
    folder = write_landing(tmp_path / "clean", dataclasses.replace(without, has_dirt=False))
    assert table(folder, "slides.csv").is_empty()
    assert list(tmp_path.iterdir()) == [folder]
