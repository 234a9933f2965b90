"""The TCGA contract on the real files of the landing folder, which is not part of the project: skipped where it is absent."""

from pathlib import Path

import polars as pl
import pytest

from feature_store import sources
from feature_store.audit import audit
from feature_store.contract import Contract, load_contract
from feature_store.contract.splits import GivenSplit
from feature_store.home import Home
from feature_store.ingest.stage import Staged, landing_files, stage
from feature_store.ingest_report import ingest_report
from feature_store.ingest_report_text import report_text
from feature_store.tables import COHORT_TABLES
from mice_model.report_cleaning import prepared

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def landing(real_landing: Path) -> Path:
    return real_landing


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(ROOT / "cohorts" / "tcga.yaml")


@pytest.fixture(scope="module")
def staged(landing: Path, contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """All of TCGA, staged once: half a minute."""
    return stage(contract, landing, Home(tmp_path_factory.mktemp("tcga")))


def quarantined(staged: Staged, table: str, reason: str) -> pl.DataFrame:
    return staged.table("quarantine").filter((pl.col("table_name") == table) & (pl.col("reason") == reason))


def test_all_projects_are_there(staged: Staged, contract: Contract) -> None:
    cases = staged.table("cases")
    assert set(cases["cohort"]) == set(contract.cohorts)
    assert (cases["cohort"].n_unique(), cases["cancer_type"].n_unique()) == (33, 31)
    assert cases.height == 11_160 - 57


@pytest.mark.parametrize("cohort", ["TCGA-BRCA", "TCGA-LAML", "TCGA-UCEC"])
def test_cohorts_pass_their_audit(staged: Staged, cohort: str) -> None:
    assert [check for check in audit(staged, cohort) if not check.is_passed] == []


def test_cases_with_everything(staged: Staged) -> None:
    present = staged.table("modality_matrix").filter(pl.col("state") == "present")
    wanted = ("rna", "mutations", "copy_number", "report")
    complete = present.filter(pl.col("modality").is_in(wanted)).group_by("case_id").len().filter(pl.col("len") == len(wanted))
    os = staged.table("endpoints").filter(pl.col("endpoint") == "os")
    assert complete.join(os, on="case_id", how="semi").height >= 3_800


def test_redacted_cases_are_out(staged: Staged) -> None:
    redacted = quarantined(staged, "cases", "redacted by TCGA")["case_id_found"]
    assert len(redacted) == redacted.n_unique() == 57
    for name in (table.name for table in COHORT_TABLES if "case_id" in table.schema):
        assert not staged.table(name)["case_id"].is_in(redacted.to_list()).any(), name


def test_no_outcome_is_among_the_slide_features(contract: Contract, landing: Path) -> None:
    """The files of slide features carry outcome columns beside them: the pattern must not match one."""
    from feature_store.ingest.numbers import feature_columns
    from feature_store.ingest.slide_vectors import canonical_name

    words = [
        "SURV",
        "DEATH",
        "DEAD",
        "VITAL",
        "FOLLOW",
        "RECUR",
        "RELAPSE",
        "STAGE",
        "GRADE",
        "_OS",
        "_PFI",
        "_DSS",
        "TIME",
        "DAYS",
    ]
    for spec in contract.slides:
        for file in sources.find(landing, spec.path):
            raw = sources.read_table(file)
            columns = feature_columns(
                raw.rename({name: canonical_name(name) for name in raw.columns if name}), spec.features, file
            )
            assert len(columns) == 607
            assert not [name for name in columns if any(word in name for word in words)]


def test_stages_with_their_letters(staged: Staged) -> None:
    """Each value of the sources has a rule; of the 6,540 patients of cBioPortal's file 65 are no cases of ours."""
    clinical, quarantine = staged.table("clinical"), staged.table("quarantine")
    counted = {name: clinical[name].count() for name in ("stage", "substage", "t_stage", "n_stage", "m_stage")}
    assert counted == {"stage": 8638, "substage": 8638, "t_stage": 5693, "n_stage": 4998, "m_stage": 4408}
    of_both = clinical.filter(pl.col("substage") > 0)
    assert of_both["substage"].floor().equals(of_both["stage"], check_names=False)
    set_aside = quarantine.filter(pl.col("path").str.starts_with("raw/tsure_cbioportal/"))
    found = set(set_aside.group_by("table_name", "reason").len().rows())
    assert found == {
        (table, reason, rows)
        for table, times in (("clinical", 1), ("copy_number", 2))  # two panels
        for reason, rows in (("case is not in the cases table", 65 * times), ("another of the case counts", 4 * times))
    }


def test_scores_of_a_sample_are_copy_number_and_no_rna(staged: Staged) -> None:
    panels = staged.table("gene_panels").filter(pl.col("feature").str.contains(" "))
    features = panels.group_by("modality", "panel_id").agg(pl.col("feature").unique().sort())
    assert set(features["modality"]) == {"copy_number"}
    assert sorted(features["feature"].to_list()) == [
        ["Aneuploidy Score", "Fraction Genome Altered", "Tumor Break Load"],
        ["Buffa Hypoxia Score", "Ragnum Hypoxia Score", "Winter Hypoxia Score"],
    ]
    vectors = staged.table("copy_number").filter(pl.col("panel_id").is_in(features["panel_id"].to_list()))
    assert sorted(vectors.group_by("panel_id").len()["len"]) == [5418, 6451]
    assert not vectors["values"].list.eval(pl.element().is_nan()).list.all().any()
    present = staged.table("modality_matrix").filter(pl.col("state") == "present").group_by("modality").len()
    assert set(present.rows()) >= {("rna", 4675), ("copy_number", 10_622), ("protein", 6693)}


def test_folds_are_porpoises(staged: Staged, contract: Contract) -> None:
    folds = staged.table("folds").join(staged.table("cases").select("case_id", "cancer_type"), on="case_id")
    (split,) = contract.splits
    assert isinstance(split, GivenSplit)
    assert set(folds["cancer_type"]) == set(split.cancer_types)
    assert folds["case_id"].is_unique().all()
    assert set(folds["fold"]) == set(range(5))
    sizes = folds.group_by("cancer_type", "fold").len()
    assert sizes.height == 12 * 5


def test_event_counts_are_the_published_ones(staged: Staged, landing: Path) -> None:
    """PORPOISE codes 1 = censored, TCGA-CDR 1 = died: the same cases must come out with the same events."""
    os = staged.table("endpoints").filter(pl.col("endpoint") == "os")
    cancer_types = staged.table("cases").select("case_id", "cancer_type")
    folds = staged.table("folds").join(os, on="case_id").join(cancer_types, on="case_id")
    redacted = quarantined(staged, "cases", "redacted by TCGA")["case_id_found"].to_list()
    for cancer_type, known in {"blca": 169, "brca": 130, "ucec": 75}.items():
        file = sources.find(landing, f"raw/porpoise/mutsig/tcga_{cancer_type}_all_clean.csv.zip")[0]
        theirs = sources.read_table(file).unique("case_id").filter(pl.col("censorship").cast(pl.Float64) == 0)
        assert theirs.height == known
        num_redacted = theirs["case_id"].is_in(redacted).sum()
        assert folds.filter(pl.col("cancer_type") == cancer_type)["event_observed"].sum() == known - num_redacted


def test_barcodes_that_the_cases_lack_are_quarantined(staged: Staged) -> None:
    """Firehose's LUAD file has 52 cases of site 17 that TCGA-CDR does not know."""
    unknown = quarantined(staged, "mutations", "case is not in the cases table")["case_id_found"]
    assert unknown.filter(unknown.str.starts_with("TCGA-17-Z")).str.slice(0, 12).n_unique() == 52
    assert not staged.table("cases")["case_id"].str.starts_with("TCGA-17-Z").any()


def test_the_report_explains_every_row_that_was_set_aside(staged: Staged, contract: Contract, landing: Path) -> None:
    report = ingest_report(staged, landing, landing_files(contract, landing))
    quarantine = staged.table("quarantine")
    assert sum(one.rows for one in report.set_aside) == quarantine.height
    assert quarantine["reason"].null_count() == quarantine["path"].null_count() == 0
    said = {(one.table, one.reason): one for one in report.set_aside}
    assert {reason for table, reason in said if table == "protein"} >= {"case is not of TCGA-LIHC, as the file is"}
    of_mesothelioma = said["protein", "case is not of TCGA-LIHC, as the file is"]
    assert (of_mesothelioma.rows, of_mesothelioma.files) == (63, {"raw/rtcga_rppa/LIHC.RPPA.rda": 63})
    unknown = said["mutations", "case is not in the cases table"]
    assert (unknown.num_ids, unknown.num_ids_left_out) == (87, 35)  # the other 52 are Firehose's LUAD
    assert all(case_id.startswith("TCGA-17-Z") for case_id, _ in unknown.examples)
    nameless = said["reports", f"identifier does not match {contract.case_id.pattern}"]
    assert nameless.num_ids == 70
    extreme = said["rna", "values outside the plausible -50 to 50"]
    assert extreme.effect == "kept"
    assert max(vectors.highest or 0 for vectors in report.vectors) == pytest.approx(36893.305)
    text = report_text(report)
    assert "raw/rtcga_rppa/LIHC.RPPA.rda, 92,996 bytes: NOTHING TAKEN; 63 rows set aside" in text
    assert "3.689e+04" in text


def test_few_reports_speak_of_the_outcome(staged: Staged) -> None:
    reports = staged.table("reports")
    found = prepared(reports["text"].to_list(), reports["case_id"].to_list(), "mask")
    assert (found.outcome_words.num_reports, found.outcome_words.num_with_words) == (7_206, 10)
    assert sum(found.num_places) == sum(found.outcome_words.places.values())
    lengths = pl.Series([len(text or "") for text in found.texts])
    assert 0.9 < lengths.sum() / reports["num_characters"].sum() < 1  # cleaning takes little away
    assert (lengths > 0).all()
