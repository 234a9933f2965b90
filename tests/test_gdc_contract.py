"""The shipped contract of the GDC's own files (cohorts/tcga-gdc.yaml), on a landing folder in miniature."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from gdc_landing import COPIES, MAF, REPORT, REPORT_TEXT, RPPA, STAR, GdcLanding, filled, maf, pdf, star_counts
from ingesting import ids, of_case, rejected, state

from feature_store.audit import audit
from feature_store.contract import Contract, load_contract
from feature_store.errors import SourceFormatError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, content_key, landing_files, stage

COHORT = "GDC-TCGA-BRCA"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(Path(__file__).parents[1] / "cohorts" / "tcga-gdc.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> GdcLanding:
    landing = filled(tmp_path_factory.mktemp("gdc"))
    landing.write()
    return landing


@pytest.fixture(scope="module")
def staged(contract: Contract, whole: GdcLanding, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    return stage(contract, whole.root, Home(tmp_path_factory.mktemp("gdc-home")))


def vector(staged: Staged, table: str, case_id: str) -> dict[str, float]:
    row = staged.table(table).filter(of_case == case_id)
    panel = staged.table("gene_panels").filter(pl.col("panel_id") == row["panel_id"].item(), pl.col("cohort") == COHORT)
    return dict(zip(panel.sort("position")["feature"], row["values"].item().to_list(), strict=True))


def test_every_case_has_every_modality_and_the_cohort_passes(staged: Staged, whole: GdcLanding) -> None:
    matrix = staged.table("modality_matrix").filter(pl.col("modality") != "slide")
    assert matrix.height == 6 * len(whole.case_ids)
    assert set(matrix["state"]) == {"present"}
    assert [check.found for check in audit(staged, COHORT) if not check.is_passed] == []
    assert set(staged.table("sources")["path"]) >= {"gdc/files.tsv", "gdc/cases.json", whole.files[0]["path"]}


def test_clinical_values_are_those_of_the_primary_diagnosis(staged: Staged, whole: GdcLanding) -> None:
    clinical = staged.table("clinical").sort("case_id")
    by_case = dict(zip(clinical["case_id"], clinical["age_at_diagnosis_years"], strict=True))
    assert [by_case[case_id] for case_id in whole.case_ids] == pytest.approx([50 + n for n in range(12)])
    assert set(clinical["stage"]) == {2.0}
    assert clinical["grade"].null_count() == 12
    assert clinical.filter(of_case == whole.case_ids[1]).select("race", "sex", "diagnosis_year").row(0) == (None, "female", 2009)


def test_diagnoses_that_do_not_count_are_reported(staged: Staged, whole: GdcLanding) -> None:
    left_out = rejected(staged, "clinical")
    assert sorted(left_out["case_id_found"]) == sorted(whole.case_ids[1::2])
    assert set(left_out["effect"]) == {"left_out"}
    second = whole.case_ids[1]
    assert left_out.filter(pl.col("case_id_found") == second)["found"].to_list() == [
        f"false, 300, {second}_diagnosis2 (counts: true, 0, {second}_diagnosis)"
    ]


def test_survival_is_to_death_or_to_the_latest_follow_up(staged: Staged, whole: GdcLanding) -> None:
    found = {row[0]: row[1:] for row in staged.table("endpoints").select("case_id", "duration_days", "event_observed").rows()}
    for number, case_id in enumerate(whole.case_ids):
        assert found[case_id] == ((300.0 + number, True) if number % 3 == 0 else (400.0 + number, False))


def test_star_counts_become_logarithms_by_symbol(staged: Staged, whole: GdcLanding) -> None:
    assert vector(staged, "rna", whole.case_ids[5]) == pytest.approx(
        {"EGFR": np.log2(1.5), "MYC": np.log2(6.0), "TP53": 2.0}  # no lncRNA, no N_* row
    )
    lost = staged.table("feature_mapping").filter(pl.col("modality") == "rna", pl.col("state") != "mapped")
    assert set(lost.select("feature_found", "state").rows()) == {
        ("ENSG00000002586.20", "collides"),
        ("ENSG00000002586.20_PAR_Y", "collides"),
    }


def test_copy_number_and_protein_keep_what_is_missing_missing(staged: Staged, whole: GdcLanding) -> None:
    copies = vector(staged, "copy_number", whole.case_ids[0])
    assert (copies["TP53"], copies["MYC"]) == (1.0, 5.0)
    assert np.isnan(copies["HOTAIR"])
    proteins = vector(staged, "protein", whole.case_ids[7])
    assert (proteins["BRAF"], proteins["1433BETA"]) == pytest.approx((-0.25, 0.7))
    assert np.isnan(proteins["ACETYLATUBULINLYS40"])


def test_a_maf_without_a_variant_is_a_case_without_mutations(staged: Staged, whole: GdcLanding) -> None:
    mutations = staged.table("mutations")
    assert sorted(mutations["case_id"]) == sorted(whole.case_ids[1::2])
    assert mutations.select("gene_symbol", "protein_change").unique().rows() == [("TP53", "p.R175H")]  # silent ones are dropped
    assert state(staged, whole.case_ids[0], "mutations") == ("present", None)


def test_reports_are_the_pdfs_texts(staged: Staged, whole: GdcLanding) -> None:
    reports = staged.table("reports")
    assert reports.height == 12
    assert set(reports["text"]) == {REPORT_TEXT}
    assert set(reports["report_id"]) == {row["file_id"] for row in whole.files if row["data_type"] == REPORT}


def test_samples_are_listed_with_their_aliquots(staged: Staged, whole: GdcLanding) -> None:
    first = whole.case_ids[0]
    rows = staged.table("samples").filter(of_case == first).select("sample_id", "sample_type", "aliquot_id").rows()
    assert rows == [(f"{first}-01A", "Primary Tumor", f"{first}-01A-11R-A144-07")]


def test_of_several_samples_the_declared_one_counts(contract: Contract, tmp_path: Path) -> None:
    """A normal, a metastasis, two vials, two plates: one file of five is read."""
    landing = filled(tmp_path / "landing")
    case_id = landing.case_ids[0]
    landing.files = [row for row in landing.files if (row["data_type"], row["case_id"]) != (STAR, case_id)]
    aliquots = {
        "11A-11R-A999-07": "Solid Tissue Normal",
        "06A-11R-A999-07": "Metastatic",
        "01B-11R-A999-07": "Primary Tumor",
        "01A-11R-A144-07": "Primary Tumor",
        "01A-11R-A310-07": "Primary Tumor",
    }
    for number, (barcode, kind) in enumerate(aliquots.items()):
        counts = star_counts({"MYC": float(number)}) if "A310" in barcode else b"not a table of counts"
        landing.add(STAR, f"{barcode}.tsv", counts, case_id, barcode, kind)
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    assert vector(staged, "rna", case_id)["MYC"] == pytest.approx(np.log2(5))
    left_out = rejected(staged, "rna").select("reason", "effect", "found").rows()
    assert {row[:2] for row in left_out} == {("another of the case counts", "left_out")}
    counts = f"Primary Tumor, {case_id}-01A, {case_id}-01A-11R-A310-07"
    assert sorted(row[2].split("-")[-2] for row in left_out) == ["A310"] * 4
    assert all(row[2].endswith(f"(counts: {counts})") for row in left_out)


def test_a_case_that_the_gdc_withdrew_is_left_out(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    landing.redacted = [(landing.case_ids[2], "redacted: Subject withdrew consent")]
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    assert landing.case_ids[2] not in ids(staged)
    row = rejected(staged, "cases").row(0, named=True)
    assert (row["case_id_found"], row["effect"], row["found"]) == (
        landing.case_ids[2], "left_out", "redacted: Subject withdrew consent",
    )  # fmt: skip
    assert landing.case_ids[2] not in ids(staged, "rna")


def test_files_that_disagree_in_their_genes_stop_the_ingest(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    path = landing.root / next(row["path"] for row in landing.files[10:] if row["data_type"] == STAR)
    path.write_bytes(path.read_bytes().replace(b"ENSG00000136997.22", b"ENSG00000000001.1"))
    with pytest.raises(
        SourceFormatError, match=rf"{path.name}: 5 genes, .*lacks \['ENSG00000136997.22'\].*\['ENSG00000000001.1'\]"
    ):
        stage(contract, landing.write(), Home(tmp_path / "home"))


def test_genes_in_another_order_are_the_same_genes(contract: Contract, whole: GdcLanding, staged: Staged, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    path = landing.root / next(row["path"] for row in landing.files[10:] if row["data_type"] == STAR)
    head, *rows = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([head, rows[0], *reversed(rows[1:])]), "utf-8")
    again = stage(contract, landing.write(), Home(tmp_path / "home"))
    assert again.table("rna").drop("source_sha256").equals(staged.table("rna").drop("source_sha256"))


def test_a_listed_file_that_is_missing_or_outside_is_rejected(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    (tmp_path / "outside.tsv").write_bytes(star_counts({}))
    places = [row for row in landing.files if row["data_type"] == STAR]
    (landing.root / places[0]["path"]).unlink()
    places[1]["path"] = "../outside.tsv"
    places[2]["path"] = str(tmp_path / "outside.tsv")
    places[3]["path"] = ""
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    rows = rejected(staged, "rna")
    assert rows["found"].to_list() == [places[0]["path"], "../outside.tsv", str(tmp_path / "outside.tsv"), None]
    assert set(rows["reason"]) == {"no such file in the landing folder"}
    assert state(staged, places[0]["case_id"], "rna") == ("failed_check", "no such file in the landing folder")
    assert staged.table("rna").height == 8


def test_a_file_behind_the_table_of_files_is_part_of_the_content(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    folder = landing.write()
    before = content_key(contract, landing_files(contract, folder))
    path = folder / next(row["path"] for row in landing.files if row["data_type"] == MAF)
    path.write_bytes(maf("TCGA-A0-0000", ("EGFR", "Missense_Mutation", "p.L858R")))
    assert content_key(contract, landing_files(contract, folder)) != before


def test_a_kind_of_file_that_was_not_fetched_is_absent(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    landing.files = [row for row in landing.files if row["data_type"] not in {RPPA, COPIES}]
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    assert state(staged, landing.case_ids[0], "protein") == ("absent", "no source has it")
    assert staged.table("rna").height == 12


def test_pdfs_that_cannot_be_read_are_rejected_one_by_one(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    reports = [row for row in landing.files if row["data_type"] == REPORT]
    for row, data in zip(reports, (pdf(""), b"%PDF-1.7 broken", b""), strict=False):
        (landing.root / row["path"]).write_bytes(data)
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    found = {row["found"]: row["reason"] for row in rejected(staged, "reports").iter_rows(named=True)}
    assert set(found) == {row["path"] for row in reports[:3]}
    assert "without a text layer" in found[reports[0]["path"]]
    assert "mice-platform[ocr]" in found[reports[0]["path"]]
    assert all(found[row["path"]].startswith("PDF: unreadable") for row in reports[1:3])
    assert staged.table("reports").height == 9


def test_a_case_without_a_primary_diagnosis_is_rejected_not_guessed(contract: Contract, tmp_path: Path) -> None:
    landing = filled(tmp_path / "landing")
    landing.cases[1]["diagnoses"] = [one for one in landing.cases[1]["diagnoses"] if not one["diagnosis_is_primary_disease"]]
    landing.cases[2]["diagnoses"] = []
    staged = stage(contract, landing.write(), Home(tmp_path / "home"))
    rows = rejected(staged, "clinical", landing.case_ids[1])
    assert rows.select("effect", "reason").rows() == [
        ("rejected", "diagnoses.diagnosis_is_primary_disease is none of true, missing")
    ]
    ages = staged.table("clinical").filter(of_case.is_in(landing.case_ids[1:3]))["age_at_diagnosis_years"]
    assert ages.to_list() == [None, None]


def test_cases_under_a_key_are_read_like_a_list(contract: Contract, whole: GdcLanding, staged: Staged, tmp_path: Path) -> None:
    """What the API itself answers has the cases under data.hits."""
    landing = filled(tmp_path / "landing")
    folder = landing.write()
    (folder / "gdc" / "cases.json").write_text(json.dumps({"data": {"hits": landing.cases}, "warnings": {}}), "utf-8")
    with pytest.raises(SourceFormatError, match=r"cases\.json: .*an object with keys \['data', 'warnings'\].*`records`"):
        stage(contract, folder, Home(tmp_path / "home"))
    under = {"records": "data.hits"}
    fields = {name: getattr(contract, name).model_copy(update=under) for name in ("cases", "clinical", "endpoints")}
    again = stage(contract.model_copy(update=fields), folder, Home(tmp_path / "home"))
    for table in ("cases", "clinical", "endpoints"):
        assert again.table(table).drop("source_sha256").equals(staged.table(table).drop("source_sha256"))
