"""From landing folder to staged tables: planted dirt, what stops the ingest, the modality matrix, and staging as such."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import changed, ids, of_case, planted, reasons, rejected, state

from feature_store import sources
from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.feature_sources import MutationMatrixSource
from feature_store.contract.rules import Identifier
from feature_store.errors import ColumnMissingError, LandingMissingError, SourceFormatError
from feature_store.home import Home
from feature_store.ingest import stage as stage_module
from feature_store.ingest.stage import Staged, stage
from feature_store.tables import COHORT_TABLES

# --- the dirt that the synthetic cohort plants

EXPECTED = {
    "exact_duplicate_row": ("cases", "duplicate: equal to a row that was kept"),
    "conflicting_duplicate": ("cases", "duplicate: rows of the same case contradict each other"),
    "malformed_id": ("cases", "identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}"),
    "event_coded_dead": ("endpoints", "os: event code is none of 0, 1"),
    "zero_time": ("endpoints", "os: duration is not a positive number"),
    "negative_time": ("endpoints", "os: duration is not a positive number"),
    "unknown_case_rna": ("rna", "case is not in the cases table"),
    "short_report": ("reports", "text under 50 characters"),
    "unknown_case_report": ("reports", "case is not in the cases table"),
    "trailing_space": ("clinical", None),
    "unicode_dash": ("copy_number", None),
    "lower_case": ("mutations", None),
    "sample_barcode": ("rna", None),
    "nan_features": ("patch_bags", "NaN or Inf"),
    "coords_count_differs": ("patch_bags", "expected one x, y per patch"),
    "slide_file_missing": ("patch_bags", "in the landing folder, expected its patch features"),
}


def test_every_plant_is_expected_here(dirty_landing: Path) -> None:
    assert set(planted(dirty_landing)) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_planted_dirt_ends_as_expected(dirty: Staged, dirty_landing: Path, name: str) -> None:
    plant, (table, reason) = planted(dirty_landing)[name], EXPECTED[name]
    num_rows = {"both rows quarantined": 2}.get(plant["expected"], plant["count"])
    if plant["expected"] == "slide refused":
        rows = rejected(dirty, table).filter(pl.col("found").is_in(plant["ids"]))
        assert rows["reason"].str.contains(reason, literal=True).to_list() == [True]
        assert rows["path"].item() in {"slides.csv", f"slides/{plant['ids'][0]}.h5"}
        assert plant["ids"][0] not in dirty.table("patch_bags")["slide_id"]
        assert plant["ids"][0] in dirty.table("slides")["slide_id"]
    elif plant["expected"] == "normalised":
        assert reasons(dirty, table, *plant["ids"]) == []
        assert set(plant["case_ids"]) <= set(ids(dirty, table))
    else:
        assert reasons(dirty, table, *plant["ids"]) == [reason] * num_rows


def test_rejected_rows_name_their_cohort_or_the_contract(dirty: Staged, dirty_landing: Path) -> None:
    dirt = planted(dirty_landing)
    of_case = rejected(dirty, "endpoints", *dirt["zero_time"]["ids"])
    assert of_case.select("cohort", "path", "found").rows() == [("synthetic", "clinical.csv", "0")]
    of_nobody = rejected(dirty, "rna", *dirt["unknown_case_rna"]["ids"])
    assert of_nobody["cohort"].to_list() == ["synthetic:unassigned"] * 2
    assert dirty.num_normalised == 1 + 1 + read_table(dirty_landing / "mutations.csv")["case_id"].str.contains("syn").sum()


def test_duplicates_equal_and_contradicting(dirty: Staged, dirty_landing: Path) -> None:
    dirt = planted(dirty_landing)
    assert ids(dirty).count(dirt["exact_duplicate_row"]["case_ids"][0]) == 1
    for table in ("cases", "clinical", "endpoints", "rna"):
        assert dirt["conflicting_duplicate"]["case_ids"][0] not in ids(dirty, table)


def test_the_other_endpoint_of_a_bad_outcome_is_kept(dirty: Staged, dirty_landing: Path) -> None:
    case_id = planted(dirty_landing)["event_coded_dead"]["case_ids"][0]
    assert dirty.table("endpoints").filter(of_case == case_id)["endpoint"].to_list() == ["pfi"]


def test_the_dirty_cohort_passes_its_audit_and_a_strict_limit_stops_it(dirty: Staged) -> None:
    assert all(check.is_passed for check in audit(dirty, "synthetic"))
    strict = replace(dirty, contract=dirty.contract.model_copy(update={"max_quarantined_fraction": 0.01}))
    failed = {check.name: check.found for check in audit(strict, "synthetic") if not check.is_passed}
    assert list(failed) == ["few_rows_are_quarantined"]
    found = failed["few_rows_are_quarantined"]
    assert re.search(
        r"rejected {'cases': '[0-9.]+%'.* of synthetic, at most 1% allowed; most often '.+' \(\d+ rows of \w+\)", found
    )
    assert str(dirty.folder / "quarantine.parquet") in found


def test_the_sources_table_fingerprints_what_the_cohort_was_read_from(dirty: Staged, dirty_landing: Path) -> None:
    found = dirty.table("sources")
    assert {"clinical.csv", "rna.csv.gz", "mutations.csv"} <= set(found["path"])
    for path, digest, size in found.select("path", "source_sha256", "num_bytes").rows():
        file = sources.fingerprint(dirty_landing, dirty_landing / path)
        assert (file.sha256, file.num_bytes) == (digest, size)
    assert set(dirty.table("rna")["source_sha256"]) <= set(found["source_sha256"])


# --- what stops the ingest


def test_a_missing_landing_folder_or_source_is_named(corrupt: Corrupt, bare: Callable[..., Staged], tmp_path: Path) -> None:
    with pytest.raises(LandingMissingError, match="nowhere: not a folder"):
        bare(tmp_path / "nowhere")
    landing = corrupt()
    (landing / "copy_number.csv").unlink()
    with pytest.raises(LandingMissingError, match=r"no file matches 'copy_number\.csv'"):
        bare(landing)


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("clinical.csv", "gender", "Gender ", r"clinical\.csv: no column \['gender'\].*close: \['Gender '\]"),
        ("clinical.csv", "case_id", "patient", r"clinical\.csv: no column \['case_id'\]"),
        ("clinical.csv", "OS", "dead", r"clinical\.csv: no column \['OS'\]"),
        ("reports.csv", "text", "body", r"reports\.csv: no column \['text'\]"),
        ("mutations.csv", "HGVSp_Short", "HGVSp", r"mutations\.csv: no column \['HGVSp_Short'\]"),
    ],
)
def test_a_renamed_column_stops_the_ingest(
    corrupt: Corrupt, bare: Callable[..., Staged], file: str, old: str, new: str, named: str
) -> None:
    with pytest.raises(ColumnMissingError, match=named):
        bare(corrupt({file: lambda frame: frame.rename({old: new})}))


def test_a_renamed_slide_column_stops_the_ingest(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    with pytest.raises(ColumnMissingError, match=r"no column \['mpp'\]"):
        read(corrupt({"slides.csv": lambda frame: frame.rename({"mpp": "MPP"})}))


def test_features_that_no_column_matches(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path
) -> None:
    """A family of files may lack a kind of feature in some; where all lack it, the audit says so."""
    nothing = synthetic_contract.rna[0].model_copy(update={"features": "(.+)_tpm"})
    staged = bare(clean_landing, rna=(nothing,))
    assert staged.table("rna").is_empty()
    matrix = MutationMatrixSource(
        layout="mutation_matrix", path="rna.csv.gz", case_id=Identifier(column="case_id"), features="(.+)_mut"
    )
    with pytest.raises(ColumnMissingError, match=r"no column matches '\(\.\+\)_mut', expected the features; the first columns"):
        bare(clean_landing, mutations=(matrix,))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("high", "'high'"),
        ("1,5", "'1,5'"),
        *((text, "an infinite number, or one too large for float32") for text in ("inf", "-Infinity", "1e39")),
    ],
)
def test_text_or_infinity_among_numbers_stops_the_ingest(
    corrupt: Corrupt, bare: Callable[..., Staged], text: str, found: str
) -> None:
    with pytest.raises(SourceFormatError, match=rf"rna\.csv\.gz: column 'EGFR_rnaseq' holds {found} \(1 such values\)"):
        bare(corrupt({"rna.csv.gz": changed("EGFR_rnaseq", text, at=3)}))


# --- modality matrix


def test_the_modality_matrix_has_every_case_and_modality_with_a_reason(dirty: Staged, dirty_landing: Path) -> None:
    matrix = dirty.table("modality_matrix")
    assert matrix.height == 7 * len(ids(dirty))
    assert matrix.select("case_id", "modality").is_unique().all()
    assert set(matrix["state"]) == {"present", "absent", "failed_check"}
    assert matrix.filter(pl.col("state") == "present")["reason"].null_count() == (matrix["state"] == "present").sum()
    assert set(matrix.filter(pl.col("state") == "absent")["reason"]) == {"no source has it"}
    dirt = planted(dirty_landing)
    assert state(dirty, dirt["short_report"]["case_ids"][0], "report") == ("failed_check", "text under 50 characters")
    for name in ("nan_features", "coords_count_differs", "slide_file_missing"):
        found, reason = state(dirty, dirt[name]["case_ids"][0], "slide")
        assert found == "failed_check"
        assert reason == rejected(dirty, "patch_bags").filter(pl.col("found") == dirt[name]["ids"][0])["reason"].item()
    tables = {"rna": "rna", "copy_number": "copy_number", "mutations": "mutations", "report": "reports", "slide": "patch_bags"}
    for modality, table in tables.items():
        present = matrix.filter((pl.col("modality") == modality) & (pl.col("state") == "present"))["case_id"]
        assert set(present) >= set(ids(dirty, table))


# --- staging


def test_a_failure_midway_leaves_no_folder(
    read: Callable[..., Staged], clean_landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "read_folds", fail)
        with pytest.raises(KeyboardInterrupt):
            read(clean_landing)
    contract_folder = tmp_path / "home" / "staging" / "synthetic"
    assert list(contract_folder.iterdir()) == []
    (contract_folder / ".partial-of-a-killed-process").mkdir()
    staged = read(clean_landing)
    assert list(contract_folder.iterdir()) == [staged.folder]


def test_a_second_call_does_not_read_again(
    read: Callable[..., Staged], corrupt: Corrupt, clean_landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read(clean_landing)
    with monkeypatch.context() as patch:
        patch.setattr(stage_module, "read_cases", None)
        assert read(clean_landing) == first
        assert read(corrupt()) == first  # another folder of the same content
        with pytest.raises(TypeError):
            read(corrupt({"reports.csv": changed("text", "other " * 20)}))


def test_an_older_content_is_cleared_away(read: Callable[..., Staged], corrupt: Corrupt, clean_landing: Path) -> None:
    old = read(clean_landing)
    new = read(corrupt({"reports.csv": changed("text", "other " * 20)}))
    assert old.key != new.key
    assert list(new.folder.parent.iterdir()) == [new.folder]


def test_identical_input_gives_identical_bytes(
    dirty: Staged, dirty_landing: Path, synthetic_contract: Contract, tmp_path: Path
) -> None:
    landing = shutil.copytree(dirty_landing, tmp_path / "elsewhere" / "landing")
    again = stage(synthetic_contract, landing, Home(tmp_path / "home"))
    assert again.key == dirty.key
    for table in COHORT_TABLES:
        name = f"{table.name}.parquet"
        assert (again.folder / name).read_bytes() == (dirty.folder / name).read_bytes(), name


def test_processes_that_stage_at_once_read_once(clean_landing: Path, synthetic_contract: Contract, tmp_path: Path) -> None:
    """A backfill runs a contract's cohorts at the same time: all need the same staging folder."""
    from concurrent.futures import ThreadPoolExecutor

    home = Home(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        staged = list(pool.map(lambda _: stage(synthetic_contract, clean_landing, home), range(4)))
    assert len(set(staged)) == 1
    assert [path.name for path in (home.staging / "synthetic").iterdir()] == [staged[0].key]
