"""From landing folder to staged tables: what is normalised, what is rejected with which reason, what stops the ingest."""

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table

from feature_store import sources
from feature_store.audit import audit
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.contract import (
    Contract,
    Exclusion,
    GivenSplit,
    Identifier,
    MutationMatrixSource,
    SampleRule,
    SlideVectorSource,
    Value,
)
from feature_store.errors import ColumnMissingError, LandingMissingError, LeakageError, SourceFormatError
from feature_store.home import Home
from feature_store.ingest import stage as stage_module
from feature_store.ingest.stage import Staged, stage
from feature_store.synthetic_files import write_table
from feature_store.tables import COHORT_TABLES

of_case = pl.col("case_id")
NO_OMICS: dict[str, Any] = {"rna": (), "copy_number": (), "mutations": (), "reports": ()}


@pytest.fixture(scope="module")
def dirty(dirty_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(synthetic_contract, dirty_landing, Home(tmp_path_factory.mktemp("dirty-home")))


@pytest.fixture(scope="module")
def clean(clean_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(synthetic_contract, clean_landing, Home(tmp_path_factory.mktemp("clean-home")))


@pytest.fixture
def read(synthetic_contract: Contract, tmp_path: Path) -> Callable[..., Staged]:
    """Return a function that stages a landing under the contract, with some of its fields replaced."""

    def stage_it(landing: Path, **fields: Any) -> Staged:
        contract = Contract.model_validate(synthetic_contract.model_copy(update=fields).model_dump())
        return stage(contract, landing, Home(tmp_path / "home"))

    return stage_it


@pytest.fixture
def bare(read: Callable[..., Staged]) -> Callable[..., Staged]:
    """As `read`, without slides, which most tests do not need."""
    return lambda landing, **fields: read(landing, **({"slides": ()} | fields))


@pytest.fixture
def slides(read: Callable[..., Staged]) -> Callable[..., Staged]:
    """As `read`, without anything beside slides."""
    return lambda landing: read(landing, **NO_OMICS)


def planted(landing: Path) -> dict[str, dict[str, Any]]:
    return dict(json.loads((landing / "MANIFEST.json").read_text("utf-8"))["planted"])


def rejected(staged: Staged, table: str, *found: str) -> pl.DataFrame:
    rows = staged.table("quarantine").filter(pl.col("table_name") == table)
    return rows.filter(pl.col("case_id_found").is_in(found)) if found else rows


def reasons(staged: Staged, table: str, *found: str) -> list[str]:
    return rejected(staged, table, *found)["reason"].to_list()


def ids(staged: Staged, table: str = "cases") -> list[str]:
    return staged.table(table)["case_id"].to_list()


def state(staged: Staged, case_id: str, modality: str) -> tuple[str, str | None]:
    row = staged.table("modality_matrix").filter((of_case == case_id) & (pl.col("modality") == modality))
    return row["state"].item(), row["reason"].item()


def changed(column: str, value: object, *, at: int = 0) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return an edit that replaces one row's value, or calls `value` on it."""

    def edit(frame: pl.DataFrame) -> pl.DataFrame:
        old = frame[column].to_list()
        old[at] = value(old[at]) if callable(value) else value
        return frame.with_columns(pl.Series(column, old, dtype=pl.String))

    return edit


def repeated(*changes: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return an edit that appends the first row again, with columns changed."""
    return lambda frame: pl.concat([frame, frame.head(1).with_columns(*changes)])


def first_case(landing: Path, file: str = "clinical.csv") -> str:
    return str(read_table(landing / file)["case_id"][0])


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
        assert rows["path"].to_list() == ["slides.csv"]
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
    strict = Staged(dirty.contract, dirty.key, dirty.folder, 0, 0.01)
    failed = {check.name: check.found for check in audit(strict, "synthetic") if not check.is_passed}
    assert list(failed) == ["few_rows_are_quarantined"]
    assert "cases" in failed["few_rows_are_quarantined"]


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


@pytest.mark.parametrize("text", ["high", "1,5", "inf", "-Infinity", "1e39"])
def test_text_or_infinity_among_numbers_stops_the_ingest(corrupt: Corrupt, bare: Callable[..., Staged], text: str) -> None:
    with pytest.raises(SourceFormatError, match=rf"rna\.csv\.gz: column 'EGFR_rnaseq' holds '{text}' \(1 such values\)"):
        bare(corrupt({"rna.csv.gz": changed("EGFR_rnaseq", text, at=3)}))


def test_a_column_named_twice_is_refused(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    path = landing / "copy_number.csv"
    path.write_text(path.read_text().replace(",1q,", ",1p,", 1))
    with pytest.raises(SourceFormatError, match=r"columns \['1p'\] occur twice"):
        bare(landing)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.csv", b""),
        ("x.csv", b"a,b\n\xff\xfe\xfa,1\n"),
        ("x.csv", b"a,b\n1,2,3\n"),
        ("x.csv.gz", b"no gzip"),
        ("x.csv.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff"),
        ("x.csv.zip", b"PK\x03\x04 torn"),
        ("x.xlsx", b"PK\x03\x04 torn"),
        ("x.parquet", b"PAR1 torn PAR1"),
        ("x.rds", b"no R"),
    ],
)
def test_an_unreadable_table_is_a_typed_error(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceFormatError, match=r"source x\..*unreadable as .*expected a table"):
        sources.read_table(sources.fingerprint(tmp_path, tmp_path / name))


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.zip", "x.csv.gz", "x.rds"])
def test_torn_and_flipped_tables_give_typed_errors_only(tmp_path: Path, name: str) -> None:
    """A parser that panics, or fails with an error of its own, takes the run down without a word about the file."""
    path, frame = tmp_path / name, pl.DataFrame({"a": ["x", "yy", None] * 20, "b": range(60), "c": [1.5] * 60})
    if name == "x.parquet":
        frame.write_parquet(path)
    elif name == "x.csv.gz":
        write_table(path, frame)
    elif name == "x.csv.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("table.csv", frame.write_csv())
    else:
        import rdata

        rdata.write_rds(path, frame.to_pandas(), compression=None)
    assert sources.read_table(sources.fingerprint(tmp_path, path)).shape == (60, 3)
    whole, rng, num_refused = path.read_bytes(), np.random.default_rng(0), 0
    for trial in range(100):
        data = bytearray(whole[: len(whole) * trial // 25] if trial < 25 else whole)
        for at in rng.integers(0, len(whole), 3 if trial >= 25 else 0):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            sources.read_table(sources.fingerprint(tmp_path, path))
        except SourceFormatError:
            num_refused += 1
    assert num_refused >= 20


def test_a_parquet_bomb_is_refused_by_its_footer(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    pl.DataFrame({f"c{i}": [0] * 1000 for i in range(50)}).write_parquet(path)
    small = sources.fingerprint(tmp_path, path)
    assert sources.read_table(small).height == 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "MAX_UNPACKED_BYTES", 1000 * 50 * 16 - 1)
        with pytest.raises(SourceFormatError, match=r"1,000 rows of 50 columns, over"):
            sources.read_table(small)


def test_a_case_held_out_in_two_folds_is_leakage(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing, split = given_folds(corrupt)
    folds = bare(landing, split=split).table("folds")
    assert folds.height == read_table(landing / "clinical.csv").filter(pl.col("cancer_type").is_in(["AMBER", "DUNE"])).height
    assert folds["case_id"].is_unique().all()
    twice = read_table(landing / "splits" / "amber_0.csv")["val"][0]
    other = landing / "splits" / "dune_1.csv"
    write_table(other, pl.concat([read_table(other), pl.DataFrame({"train": [""], "val": [twice]})]))
    staged = bare(landing, split=split)  # of another cancer type: not this file's to hold out
    assert reasons(staged, "folds", twice) == ["case is not of dune"]
    other = landing / "splits" / "amber_1.csv"
    write_table(other, pl.concat([read_table(other), pl.DataFrame({"train": [""], "val": [twice]})]))
    with pytest.raises(LeakageError, match=rf"1 cases are held out in several folds.*{twice}"):
        bare(landing, split=split)


def test_given_folds_are_identifiers_like_any_other(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing, split = given_folds(corrupt)
    path = landing / "splits" / "amber_0.csv"
    case_id = read_table(path)["val"][0]
    others = pl.DataFrame({"train": [""] * 3, "val": [case_id, "SYN-ZZ-9009", "nobody"]})
    write_table(path, pl.concat([changed("val", f"{case_id} ".lower())(read_table(path)), others]))
    staged = bare(landing, split=split)
    assert staged.table("folds").filter(of_case == case_id)["fold"].to_list() == [0]
    assert reasons(staged, "folds") == ["case is not in the cases table", "identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}"]


def given_folds(corrupt: Corrupt) -> tuple[Path, GivenSplit]:
    """Return a landing with fold files for two of the cancer types, and the split that reads them."""
    landing = corrupt()
    (landing / "splits").mkdir()
    clinical = read_table(landing / "clinical.csv")
    for cancer_type in ("amber", "dune"):
        own = clinical.filter(pl.col("cancer_type") == cancer_type.upper())["case_id"]
        for fold in range(2):
            held_out = own.gather_every(2, fold).alias("val")
            train = pl.Series("train", [*own.gather_every(2, 1 - fold), *[""] * 9])[: max(len(held_out), len(own) // 2)]
            frame = pl.concat([train.to_frame(), held_out.to_frame()], how="horizontal")
            write_table(landing / "splits" / f"{cancer_type}_{fold}.csv", frame)
    path = "splits/{cancer_type}_{fold}.csv"
    return landing, GivenSplit(kind="given", name="two", path=path, cancer_types=("amber", "dune"), num_folds=2, held_out="val")


# --- identifiers


@pytest.mark.parametrize(
    "spell", [lambda c: f"\t{c}\u00a0", str.lower, lambda c: c.replace("-", "\u2212"), lambda c: c.replace("-", "\u2010")]
)
def test_spellings_of_an_identifier_are_one_case(
    corrupt: Corrupt, bare: Callable[..., Staged], spell: Callable[[str], str]
) -> None:
    landing = corrupt({"copy_number.csv": changed("case_id", spell)})
    staged = bare(landing)
    assert rejected(staged, "copy_number").is_empty()
    assert staged.num_normalised == 1
    assert set(read_table(landing / "copy_number.csv")["case_id"][1:]) < set(ids(staged, "copy_number"))


def test_a_duplicate_under_another_spelling_is_still_equal(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": repeated(of_case.str.to_lowercase())})
    case_id = first_case(landing)
    staged = bare(landing)
    assert ids(staged).count(case_id) == 1
    assert reasons(staged, "cases", case_id.lower()) == ["duplicate: equal to a row that was kept"]


@pytest.mark.parametrize("found", ["{}-01", "{}-01Z-00-DX1", "SYN-AA", "SYN–AA–12 34", "", None])
def test_a_wrong_barcode_level_is_rejected_not_cut(corrupt: Corrupt, bare: Callable[..., Staged], found: str | None) -> None:
    landing = corrupt()
    case_id = first_case(landing, "reports.csv")
    found = found and found.format(case_id)
    path = landing / "reports.csv"
    write_table(path, changed("case_id", found)(read_table(path)))
    rows = rejected(bare(landing), "reports")
    assert rows["case_id_found"].to_list() == [found]
    assert rows["reason"].to_list() == ["identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}"]


def test_identifiers_stay_text(bare: Callable[..., Staged], tmp_path: Path, synthetic_contract: Contract) -> None:
    """`001` is HANCOCK's spelling; a report called `1.0` is not the report called `1`."""
    landing = tmp_path / "numbered"
    landing.mkdir()
    numbers = ["001", "002", "003", "010"]
    rows = [(n, "AMBER", "60", "FEMALE", "Stage I", "G1", "2010", str(i % 2), "100", "0", "90") for i, n in enumerate(numbers)]
    header = [
        "case_id",
        "cancer_type",
        "age_years",
        "gender",
        "stage",
        "grade",
        "diagnosis_year",
        "OS",
        "OS.time",
        "PFI",
        "PFI.time",
    ]
    write_table(landing / "clinical.csv", pl.DataFrame(rows, schema=header, orient="row"))
    texts = {"case_id": ["001", "001"], "report_id": ["1", "1.0"], "text": ["a" * 60, "b" * 60]}
    write_table(landing / "reports.csv", pl.DataFrame(texts))
    rule = synthetic_contract.case_id.model_copy(update={"pattern": "[0-9]{3}"})
    site = synthetic_contract.cases.model_copy(update={"site": None})
    staged = bare(landing, case_id=rule, cases=site, rna=(), copy_number=(), mutations=())
    assert ids(staged) == numbers
    assert staged.table("reports")["report_id"].to_list() == ["1", "1.0"]


@pytest.mark.parametrize("report_id", ["", " ", None])
def test_a_row_without_its_own_identifier_is_rejected(
    corrupt: Corrupt, bare: Callable[..., Staged], report_id: str | None
) -> None:
    landing = corrupt({"reports.csv": changed("report_id", report_id)})
    assert reasons(bare(landing), "reports", first_case(landing, "reports.csv")) == ["no report_id"]


def test_a_slide_without_an_identifier_is_rejected(corrupt: Corrupt, read: Callable[..., Staged]) -> None:
    landing = corrupt({"slides.csv": changed("slide_id", "")})
    staged = read(landing)
    case_id = first_case(landing, "slides.csv")
    assert reasons(staged, "slides", case_id) == ["no slide_id"]
    if case_id not in ids(staged, "patch_bags"):
        assert state(staged, case_id, "slide") == ("failed_check", "no slide_id")


# --- cases, clinical, endpoints


def test_excluded_rows_are_quarantined_with_the_declared_reason(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt({"clinical.csv": lambda frame: changed("note", "Redacted")(frame.with_columns(note=pl.lit("")))})
    rule = Exclusion(column="note", equals="Redacted", reason="redacted by the source")
    staged = bare(landing, cases=synthetic_contract.cases.model_copy(update={"exclude": (rule,)}))
    case_id = first_case(landing)
    assert reasons(staged, "cases", case_id) == ["redacted by the source"]
    assert all(case_id not in ids(staged, table) for table in ("cases", "endpoints", "clinical", "rna", "folds"))
    assert audit(staged, "synthetic")[3].is_passed


def test_a_cohort_the_contract_does_not_declare(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("cancer_type", "ELM")})
    assert reasons(bare(landing), "cases", first_case(landing)) == ["cohort is not one the contract declares"]


def test_a_case_without_cancer_type_is_one_rejected_row(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    everyone = Value(columns=("OS",), map={"0": "synthetic", "1": "synthetic"})
    landing = corrupt({"clinical.csv": changed("cancer_type", "")})
    staged = bare(landing, cases=synthetic_contract.cases.model_copy(update={"cohort": everyone}))
    assert reasons(staged, "cases", first_case(landing)) == ["project_id: value has no declared mapping"]
    assert all(check.is_passed for check in audit(staged, "synthetic"))


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        ("gender", "f", "sex"),
        ("stage", "Stage V", "stage"),
        ("age_years", "-3", "age_at_diagnosis_years"),
        ("age_years", "999", "age_at_diagnosis_years"),
        ("age_years", "NaN", "age_at_diagnosis_years"),
        ("age_years", "sixty", "age_at_diagnosis_years"),
        ("diagnosis_year", "1066", "diagnosis_year"),
        ("diagnosis_year", "2010.5", "diagnosis_year"),
    ],
)
def test_a_clinical_value_out_of_range_or_unmapped_is_left_empty(
    corrupt: Corrupt, bare: Callable[..., Staged], column: str, value: str, name: str
) -> None:
    landing = corrupt({"clinical.csv": changed(column, value)})
    staged, case_id = bare(landing), first_case(landing)
    assert rejected(staged, "clinical", case_id).select("found", "reason").rows() == [
        (value, f"{name}: value has no declared mapping or is out of range")
    ]
    assert staged.table("clinical").filter(of_case == case_id)[name].to_list() == [None]
    assert state(staged, case_id, "clinical") == ("present", None)


def test_missing_values_are_empty_without_a_word(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("stage", " [Not Available] ")})
    staged = bare(landing)
    assert rejected(staged, "clinical").is_empty()
    assert staged.table("clinical").filter(of_case == first_case(landing))["stage"].to_list() == [None]


def test_a_source_column_called_like_one_of_ours_is_not_taken_undeclared(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(race=pl.lit("x"), histology=pl.lit("y"))})
    clinical = bare(landing).table("clinical")
    assert clinical["race"].null_count() == clinical["histology"].null_count() == clinical.height


def test_values_follow_their_declared_maps(clean: Staged, clean_landing: Path) -> None:
    source = read_table(clean_landing / "clinical.csv").sort("case_id")
    clinical = clean.table("clinical").sort("case_id")
    assert clinical["sex"].to_list() == source["gender"].str.to_lowercase().to_list()
    assert clinical["grade"].to_list() == source["grade"].str.slice(1).cast(pl.Float64).to_list()
    roman = {"Stage I": 1.0, "Stage II": 2.0, "Stage III": 3.0, "Stage IV": 4.0, "[Not Available]": None}
    assert clinical["stage"].to_list() == [roman[stage] for stage in source["stage"]]
    assert clinical["diagnosis_year"].to_list() == source["diagnosis_year"].cast(pl.Int32).to_list()


def test_a_code_in_another_number_format_is_the_same_code(corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged) -> None:
    landing = corrupt({"clinical.csv": lambda frame: frame.with_columns(pl.col("OS", "OS.time") + pl.lit(".0"))})
    columns = ["case_id", "endpoint", "duration_days", "event_observed"]
    assert bare(landing).table("endpoints").select(columns).equals(clean.table("endpoints").select(columns))


def test_an_event_coded_in_words_in_every_row_stops_publishing(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    words = pl.when(pl.col("OS") == "1").then(pl.lit("1:DECEASED")).otherwise(pl.lit("0:LIVING")).alias("OS")
    staged = bare(corrupt({"clinical.csv": lambda frame: frame.with_columns(words)}))
    assert set(staged.table("endpoints")["endpoint"]) == {"pfi"}
    assert set(reasons(staged, "endpoints")) == {"os: event code is none of 0, 1"}
    assert {check.name for check in audit(staged, "synthetic") if not check.is_passed} == {"few_rows_are_quarantined"}


def test_words_are_an_event_code_where_the_contract_declares_them(
    bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path
) -> None:
    os = synthetic_contract.endpoints.endpoints["os"].model_copy(
        update={"event": "vital_status", "events": {"Alive": False, "Dead": True}}
    )
    spec = synthetic_contract.endpoints.model_copy(update={"endpoints": {"os": os}})
    events = bare(clean_landing, endpoints=spec).table("endpoints")["event_observed"]
    assert events.sum() == (read_table(clean_landing / "clinical.csv")["OS"] == "1").sum()


@pytest.mark.parametrize(("unit", "days"), [("days", 1.0), ("months", 30.44), ("years", 365.25)])
def test_durations_are_days_whatever_their_unit(
    bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path, unit: str, days: float
) -> None:
    rules = synthetic_contract.endpoints.endpoints
    spec = synthetic_contract.endpoints.model_copy(update={"endpoints": {"os": rules["os"].model_copy(update={"unit": unit})}})
    found = bare(clean_landing, endpoints=spec).table("endpoints").sort("case_id")["duration_days"].to_numpy()
    times = read_table(clean_landing / "clinical.csv").sort("case_id")["OS.time"].cast(pl.Float64).to_numpy()
    np.testing.assert_allclose(found, times * days)


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "inf", "soon", "1,000"])
def test_a_duration_that_is_no_positive_number_is_rejected(corrupt: Corrupt, bare: Callable[..., Staged], value: str) -> None:
    landing = corrupt({"clinical.csv": changed("PFI.time", value)})
    rows = rejected(bare(landing), "endpoints", first_case(landing))
    assert rows.select("found", "reason").rows() == [(value, "pfi: duration is not a positive number")]


def test_an_endpoint_that_is_not_known_is_no_row_and_no_fault(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"clinical.csv": changed("PFI", "")})
    staged, case_id = bare(landing), first_case(landing)
    assert staged.table("endpoints").filter(of_case == case_id)["endpoint"].to_list() == ["os"]
    assert rejected(staged, "endpoints").is_empty()


# --- file formats


def same_rows(one: Staged, other: Staged, table: str) -> bool:
    """Say whether two stagings hold the same rows of a table, but for the fingerprint of the source."""
    return bool(one.table(table).drop("source_sha256").equals(other.table(table).drop("source_sha256")))


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
        lambda text: text.rstrip("\n").encode(),
    ],
    ids=["crlf", "bom", "bom-crlf", "no last newline"],
)
def test_line_ends_and_byte_order_marks_change_nothing(
    corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged, encode: Callable[[str], bytes]
) -> None:
    landing = corrupt()
    for name in ("clinical.csv", "reports.csv", "mutations.csv", "copy_number.csv"):
        (landing / name).write_bytes(encode((landing / name).read_text("utf-8")))
    staged = bare(landing)
    for table in ("cases", "clinical", "endpoints", "reports", "mutations", "copy_number"):
        assert same_rows(staged, clean, table), table


@pytest.mark.parametrize("suffix", ["tsv", "parquet", "csv.zip", "csv.gz"])
def test_tables_of_other_formats_are_the_same_tables(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, clean: Staged, suffix: str
) -> None:
    landing = corrupt()
    frame, path = read_table(landing / "copy_number.csv"), landing / f"arms.{suffix}"
    if suffix == "parquet":
        frame.with_columns(pl.exclude("case_id").cast(pl.Float64)).write_parquet(path)
    elif suffix == "tsv":
        frame.write_csv(path, separator="\t")
    elif suffix == "csv.gz":
        write_table(path, frame)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(landing / "copy_number.csv", "anything.csv")
    spec = synthetic_contract.copy_number[0].model_copy(update={"path": path.name})
    assert same_rows(bare(landing, copy_number=(spec,)), clean, "copy_number")


# --- omics


def test_columns_in_another_order_are_the_same_panel(corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged) -> None:
    landing = corrupt({"rna.csv.gz": lambda frame: frame.select(frame.columns[::-1])})
    staged = bare(landing)
    assert same_rows(staged, clean, "rna")
    assert staged.table("gene_panels").equals(clean.table("gene_panels"))


def test_a_vector_is_in_its_panels_order(clean: Staged, clean_landing: Path) -> None:
    panel = clean.table("gene_panels").filter(pl.col("modality") == "rna").sort("position")
    assert panel["feature"].to_list() == sorted(panel["feature"])
    source = read_table(clean_landing / "rna.csv.gz")
    case_id = source["case_id"][5]
    row = clean.table("rna").filter(of_case == case_id)
    assert set(panel["panel_id"]) == {row["panel_id"].item()}
    want = source.filter(of_case == case_id).select([f"{gene}_rnaseq" for gene in panel["feature"]]).cast(pl.Float32).row(0)
    assert row["values"].item().to_list() == list(want)


def test_rna_and_copy_number_of_the_same_genes_are_two_panels(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    as_copy_number = synthetic_contract.rna[0].model_copy(update={"unit": "call"})
    staged = bare(corrupt(), copy_number=(as_copy_number,))
    assert staged.table("gene_panels")["panel_id"].n_unique() == 2
    assert all(check.is_passed for check in audit(staged, "synthetic"))


def test_missing_numbers_are_nan_and_placeholders_are_missing(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt({"rna.csv.gz": lambda frame: changed("MYC_rnaseq", " NA ")(changed("EGFR_rnaseq", "-999.0")(frame))})
    staged = bare(landing, missing_values=("", "-999"))
    panel = staged.table("gene_panels").filter(pl.col("modality") == "rna").sort("position")["feature"].to_list()
    values = staged.table("rna").filter(of_case == first_case(landing, "rna.csv.gz"))["values"].item().to_numpy()
    assert {panel[i] for i in np.flatnonzero(np.isnan(values))} == {"EGFR", "MYC"}


def test_the_preferred_sample_is_kept_and_the_others_are_named(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    def samples(frame: pl.DataFrame) -> pl.DataFrame:
        """The first case has a metastasis, a primary (both of two aliquots) and a normal; the second a normal alone."""
        kinds = [("-06", 0), ("-01B", 0), ("-01A", 0), ("-11", 0), ("-11", 1)]
        rows = [
            frame[row].with_columns(of_case + kind, pl.lit(str(n)).alias("EGFR_rnaseq")) for n, (kind, row) in enumerate(kinds)
        ]
        return pl.concat([*rows, frame[2:].with_columns(of_case + "-01")])

    landing = corrupt({"rna.csv.gz": samples})
    first, second = read_table(landing / "rna.csv.gz")["case_id"].str.slice(0, 11).unique(maintain_order=True)[:2]
    spec = synthetic_contract.rna[0].model_copy(update={"sample": SampleRule(extract="-([0-9]{2})[A-Z]?$", prefer=("01", "06"))})
    staged = bare(landing, rna=(spec,))
    panel = staged.table("gene_panels").filter(pl.col("modality") == "rna").sort("position")["feature"].to_list()
    assert staged.table("rna").filter(of_case == first)["values"].item()[panel.index("EGFR")] == 2.0  # the row of 01A
    assert sorted(zip(rejected(staged, "rna")["case_id_found"], reasons(staged, "rna"), strict=True)) == [
        (f"{first}-01B", "another sample of the case was kept"),
        (f"{first}-06", "another sample of the case was kept"),
        (f"{first}-11", "sample type is none of 01, 06"),
        (f"{second}-11", "sample type is none of 01, 06"),
    ]
    assert state(staged, first, "rna") == ("present", None)
    assert state(staged, second, "rna") == ("failed_check", "sample type is none of 01, 06")


def test_a_missing_sample_column_is_named(bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path) -> None:
    rule = SampleRule(extract="-([0-9]{2})$", prefer=("01",))
    spec = synthetic_contract.rna[0].model_copy(update={"sample": rule, "sample_column": "sample"})
    with pytest.raises(ColumnMissingError, match=r"no column \['sample'\]"):
        bare(clean_landing, rna=(spec,))


def test_two_rna_rows_of_a_case_without_a_sample_rule(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"rna.csv.gz": repeated(pl.lit("9").alias("EGFR_rnaseq"))})
    staged, case_id = bare(landing), first_case(landing, "rna.csv.gz")
    assert reasons(staged, "rna", case_id) == ["duplicate: rows of the same case contradict each other"] * 2
    assert state(staged, case_id, "rna") == ("failed_check", "duplicate: rows of the same case contradict each other")


def test_silent_variants_are_dropped_and_the_case_counts_as_sequenced(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    path, case_id = landing / "mutations.csv", first_case(landing, "mutations.csv")
    silent = pl.when(of_case == case_id).then(pl.lit("Silent")).otherwise(pl.col("Variant_Classification"))
    write_table(path, read_table(path).with_columns(silent.alias("Variant_Classification")))
    staged = bare(landing)
    assert "Silent" not in staged.table("mutations")["variant_classification"]
    assert case_id not in ids(staged, "mutations")
    assert state(staged, case_id, "mutations") == ("present", None)


def test_a_variant_without_gene_is_rejected(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"mutations.csv": changed("Hugo_Symbol", "")})
    assert reasons(bare(landing), "mutations", first_case(landing, "mutations.csv")) == ["variant has no gene symbol"]


def test_a_mutation_matrix_fills_gaps_and_a_missing_call_is_no_mutation(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    landing = corrupt()
    cases = read_table(landing / "clinical.csv")["case_id"]
    sequenced = set(read_table(landing / "mutations.csv")["case_id"])
    without = [case_id for case_id in cases if case_id not in sequenced]
    rows = {
        "case_id": [*without[:4], min(sequenced)],
        "TP53_mut": ["1", "0", "NA", "", "1"],
        "MYC_mut": ["0", "0", "NA", "1", "1"],
    }
    write_table(landing / "matrix.csv", pl.DataFrame(rows))
    spec = {
        "layout": "mutation_matrix",
        "path": "matrix.csv",
        "case_id": {"column": "case_id"},
        "features": "(.+)_mut",
        "fills_gaps": True,
    }
    matrix = MutationMatrixSource.model_validate(spec)
    staged = bare(landing, mutations=(*synthetic_contract.mutations, matrix), missing_values=("", "NA"))
    found = staged.table("mutations").filter(of_case.is_in(rows["case_id"]) & pl.col("variant_classification").is_null())
    assert found.select("case_id", "gene_symbol").rows() == sorted([(without[0], "TP53"), (without[3], "MYC")])
    states = [state(staged, case_id, "mutations")[0] for case_id in without[:4]]
    assert states == ["present", "present", "absent", "present"]  # no call at all is not "no mutation"


# --- reports


def test_reports_are_stripped_and_counted(clean_landing: Path, clean: Staged) -> None:
    reports = clean.table("reports")
    source = {row[0]: row for row in read_table(clean_landing / "reports.csv").rows()}
    assert reports.height == len(source)
    for report_id, case_id, text, count in reports.select("report_id", "case_id", "text", "num_characters").rows():
        assert (report_id, case_id, text) == source[report_id]
        assert count == len(text)


def test_a_report_of_two_cases_is_nobodys(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    def swap(frame: pl.DataFrame) -> pl.DataFrame:
        return pl.concat([frame, frame[0].with_columns(case_id=pl.lit(frame["case_id"][-1]))])

    landing = corrupt({"reports.csv": swap})
    report_id = read_table(landing / "reports.csv")["report_id"][0]
    staged = bare(landing)
    assert report_id not in staged.table("reports")["report_id"]
    assert reasons(staged, "reports") == ["duplicate: rows of the same case contradict each other"] * 2


# --- slides


def slide_of(landing: Path, row: int = 0) -> tuple[str, str, Path]:
    """Return (slide_id, case_id, h5 file) of a row of slides.csv whose case has no other slide."""
    slides = read_table(landing / "slides.csv")
    single = slides.filter(~of_case.is_duplicated())
    slide_id, case_id = single.select("slide_id", "case_id").row(row)
    return slide_id, case_id, landing / "slides" / f"{slide_id}.h5"


def test_bags_hold_the_values_of_their_files(slides: Callable[..., Staged], clean_landing: Path, tmp_path: Path) -> None:
    staged = slides(clean_landing)
    listed = read_table(clean_landing / "slides.csv")
    bags = staged.table("patch_bags")
    assert bags.height == listed.height
    with BagReader(tmp_path / "home" / "store" / "bags") as reader:
        for row in bags.head(5).iter_rows(named=True):
            record = BagRecord(**{name: row[name] for name in BagRecord.__dataclass_fields__})
            with h5py.File(clean_landing / "slides" / f"{row['slide_id']}.h5") as file:
                np.testing.assert_array_equal(reader.read(record, verify=True), file["features"][:])
                np.testing.assert_array_equal(reader.coordinates(record), file["coords"][:])
    described = staged.table("slides").sort("slide_id").select("slide_id", "case_id", "mpp", "magnification", "stain")
    source = listed.sort("slide_id").with_columns(pl.col("mpp", "magnification").cast(pl.Float64))
    assert described.equals(source.select(described.columns))


def link_out(file: h5py.File, other: Path) -> None:
    del file["features"]
    file["features"] = h5py.ExternalLink(str(other), "/features")


def link_soft(file: h5py.File, other: Path) -> None:
    file["elsewhere"] = file["features"]
    del file["features"]
    file["features"] = h5py.SoftLink("/elsewhere")


def external(file: h5py.File, other: Path) -> None:
    del file["features"]
    file.create_dataset("features", (40, 32), "f2", external=[("/etc/passwd", 0, 2560)])


def virtual(file: h5py.File, other: Path) -> None:
    del file["features"]
    layout = h5py.VirtualLayout((40, 32), "f2")
    layout[:] = h5py.VirtualSource(str(other), "features", (40, 32))
    file.create_virtual_dataset("features", layout)


def objects(file: h5py.File, other: Path) -> None:
    del file["features"]
    file.create_dataset("features", (40, 32), h5py.string_dtype())


def claim(file: h5py.File, other: Path) -> None:
    del file["features"], file["coords"]
    file.create_dataset("features", (2**35, 32), "f4", chunks=(1024, 32))  # 4 TB, of which nothing is written
    file.create_dataset("coords", (2**35, 2), "i4", chunks=(1024, 2))


def claim_beyond_int64(file: h5py.File, other: Path) -> None:
    del file["features"], file["coords"]
    file.create_dataset("features", (2**60, 32), "f4", chunks=(1024, 32))
    file.create_dataset("coords", (2**60, 2), "i4", chunks=(1024, 2))


def width(file: h5py.File, other: Path) -> None:
    values = file["features"][:, :16]
    del file["features"]
    file["features"] = values


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File, Path], None]:
    def edit(file: h5py.File, other: Path) -> None:
        values = change(file[name][:])
        del file[name]
        file[name] = values

    return edit


SPOILED: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external link": (link_out, "features is ExternalLink"),
    "soft link": (link_soft, "features is SoftLink"),
    "external dataset": (external, "features is not plain data"),
    "virtual dataset": (virtual, "features is not plain data"),
    "object dtype": (objects, "features is not plain data"),
    "a group": (lambda file, _: (file.pop("features"), file.create_group("features")), "features is not plain data"),
    "4 TB claim": (claim, "features claims 4,398,046,511,104 bytes"),
    "claim beyond int64": (claim_beyond_int64, "features claims"),
    "nothing": (lambda file, _: file.pop("coords"), "coords is nothing"),
    "other width": (width, r"expected \(N, 32\)"),
    "no patches": (lambda file, _: [replaced(n, lambda v: v[:0])(file, _) for n in ("features", "coords")], "0 patches"),
    "integers": (replaced("features", lambda v: v.astype("i4")), "types int32 and int64"),
    "NaN": (replaced("features", lambda v: np.full_like(v, np.nan)), "NaN or Inf"),
    "Inf": (replaced("features", lambda v: np.where(v > 1, np.inf, v).astype("f2")), "NaN or Inf"),
    "float16 overflow": (replaced("features", lambda v: v.astype("f4") * 1e6), "values beyond float16"),
    "all zero": (replaced("features", np.zeros_like), "the same values in every patch"),
    "coords beyond int32": (replaced("coords", lambda v: v + 2**32), "int32 pixels"),
    "coords NaN": (replaced("coords", lambda v: v * np.nan), "not whole pixels"),
    "coords fractions": (replaced("coords", lambda v: v + 0.5), "not whole pixels"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_slide_is_refused_with_its_reason(corrupt: Corrupt, slides: Callable[..., Staged], name: str) -> None:
    landing = corrupt()
    spoil, reason = SPOILED[name]
    slide_id, case_id, path = slide_of(landing)
    with h5py.File(path, "r+") as file:
        spoil(file, slide_of(landing, 1)[2])
    staged = slides(landing)
    rows = rejected(staged, "patch_bags")
    assert rows["found"].to_list() == [slide_id]
    assert rows["reason"].str.contains(reason).to_list() == [True], rows["reason"].item()
    found, why = state(staged, case_id, "slide")
    assert (found, why) == ("failed_check", rows["reason"].item())


def test_whole_coordinates_written_as_floats_are_taken(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    with h5py.File(slide_of(landing)[2], "r+") as file:
        replaced("coords", lambda v: v.astype("f8"))(file, landing)
    assert rejected(slides(landing), "patch_bags").is_empty()


def test_clams_leading_batch_axis_is_taken(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    with h5py.File(slide_of(landing)[2], "r+") as file:
        replaced("features", lambda v: v[None])(file, landing)
    assert rejected(slides(landing), "patch_bags").is_empty()


def test_torn_and_flipped_slide_files_give_typed_errors_only(
    corrupt: Corrupt, slides: Callable[..., Staged], tmp_path: Path
) -> None:
    from feature_store.errors import BagInputError
    from feature_store.ingest.trident import read_patches

    whole = slide_of(corrupt())[2].read_bytes()
    rng, path = np.random.default_rng(0), tmp_path / "torn.h5"
    num_refused = 0
    for trial in range(300):
        data = bytearray(whole)
        if trial < 100:
            data = data[: len(data) * trial // 100]
        else:  # the headers lie in the first and last kilobytes
            for at in rng.integers(0, 2048, 3):
                data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            read_patches(path, "torn", 32)
        except BagInputError:
            num_refused += 1
    assert num_refused >= 100


@pytest.mark.parametrize("slide_id", ["../../outside", "x" * 300, "/etc/passwd"])
def test_a_slide_name_does_not_lead_out_of_the_landing(corrupt: Corrupt, slides: Callable[..., Staged], slide_id: str) -> None:
    landing = corrupt({"slides.csv": changed("slide_id", slide_id)})
    shutil.copy(slide_of(landing, 1)[2], landing.parent / "outside.h5")
    rows = rejected(slides(landing), "patch_bags")
    assert rows["found"].to_list() == [slide_id]
    assert "in the landing folder, expected its patch features" in rows["reason"].item()


def test_a_link_out_of_the_landing_is_not_followed(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    slide_id, _, path = slide_of(landing)
    path.rename(landing.parent / "outside.h5")
    path.symlink_to(landing.parent / "outside.h5")
    assert rejected(slides(landing), "patch_bags")["found"].to_list() == [slide_id]


def test_the_same_slide_at_two_magnifications_is_refused(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt(
        {"slides.csv": lambda f: pl.concat([f, f.filter(~of_case.is_duplicated())[0].with_columns(magnification=pl.lit("10"))])}
    )
    _, case_id, _ = slide_of(corrupt())
    staged = slides(landing)
    reason = "duplicate: rows of the same case contradict each other"
    assert reasons(staged, "slides", case_id) == [reason] * 2
    assert state(staged, case_id, "slide") == ("failed_check", reason)


@pytest.mark.parametrize("mpp", ["", "0", "-0.25", "nan", "inf", "0,25"])
def test_a_slide_without_its_declared_resolution_is_refused(corrupt: Corrupt, slides: Callable[..., Staged], mpp: str) -> None:
    landing = corrupt({"slides.csv": changed("mpp", mpp)})
    staged = slides(landing)
    rows = rejected(staged, "patch_bags")
    assert rows["found"].to_list() == [read_table(landing / "slides.csv")["slide_id"][0]]
    assert "mpp missing or not positive" in rows["reason"].item()
    assert all(check.is_passed for check in audit(staged, "synthetic"))


def test_slide_vectors_are_bags_of_one_patch(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, tmp_path: Path
) -> None:
    def vectors(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.head(3).select("case_id", pl.Series("A b", ["1", "-3e9", "NA"]), pl.Series("c.d", ["0", "7", "1"]))

    landing = corrupt()
    write_table(landing / "vectors.csv", vectors(read_table(landing / "clinical.csv")))
    spec = SlideVectorSource.model_validate(
        {
            "layout": "vector_table", "path": "vectors.csv", "case_id": {"column": "case_id"}, "features": "(A_B|C_D)",
            "transform": "signed_log1p", "encoder": {"name": "two", "dim": 2},
        }
    )  # fmt: skip
    staged = bare(landing, slides=(spec,), missing_values=("", "NA"))
    bags = staged.table("patch_bags").sort("slide_id")
    assert bags.select("num_patches", "dim").rows() == [(1, 2)] * 2
    assert reasons(staged, "patch_bags") == ["slide vector has missing values"]
    with BagReader(tmp_path / "home" / "store" / "bags") as reader:
        records = [BagRecord(**{n: row[n] for n in BagRecord.__dataclass_fields__}) for row in bags.iter_rows(named=True)]
        values = {record.case_id: reader.read(record)[0] for record in records}
    source = read_table(landing / "vectors.csv")["case_id"]
    np.testing.assert_allclose(values[source[0]], [np.log(2), 0], rtol=1e-3)
    np.testing.assert_allclose(values[source[1]], [-np.log1p(3e9), np.log(8)], rtol=1e-3)
    wide = spec.model_copy(update={"encoder": spec.encoder.model_copy(update={"dim": 3})})
    with pytest.raises(ColumnMissingError, match=r"2 columns match .* expected the 3 features of two"):
        bare(landing, slides=(wide,))


def test_all_slides_lost_stops_publishing(corrupt: Corrupt, slides: Callable[..., Staged]) -> None:
    landing = corrupt()
    for path in (landing / "slides").iterdir():
        with h5py.File(path, "r+") as file:
            width(file, path)
    staged = slides(landing)
    assert staged.wholly_rejected == ("patch_bags",)
    failed = [check for check in audit(staged, "synthetic") if not check.is_passed]
    assert [check.name for check in failed] == ["few_rows_are_quarantined"]
    assert "'patch_bags': '100.0%'" in failed[0].found


# --- modality matrix


def test_the_modality_matrix_has_every_case_and_modality_with_a_reason(dirty: Staged, dirty_landing: Path) -> None:
    matrix = dirty.table("modality_matrix")
    assert matrix.height == 6 * len(ids(dirty))
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
