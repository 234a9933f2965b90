"""What the real files of the landing folder have in store: a file of another cohort's cases, values that cannot be, real PDFs."""

from pathlib import Path

import polars as pl
import pytest

from feature_store import sources
from feature_store.contract import Contract, load_contract
from feature_store.contract.splits import RandomSplit
from feature_store.home import Home
from feature_store.ingest.documents import Documents
from feature_store.ingest.stage import Staged, stage

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def landing(real_landing: Path) -> Path:
    return real_landing


@pytest.fixture(scope="module")
def contract() -> Contract:
    return load_contract(ROOT / "cohorts" / "tcga.yaml")


@pytest.fixture(scope="module")
def staged(contract: Contract, landing: Path, tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """Proteins, and the RNA of one file, alone."""
    breast = contract.rna[0].model_copy(update={"path": "raw/porpoise/mutsig/tcga_brca_all_clean.csv.zip"})
    nothing = dict.fromkeys(("copy_number", "mutations", "reports", "slides"), ())
    split = (RandomSplit(kind="random", name="any", seed=0),)
    small = contract.model_copy(update={**nothing, "rna": (breast,), "splits": split})
    return stage(small, landing, Home(tmp_path_factory.mktemp("real")))


def quarantined(staged: Staged, table: str) -> pl.DataFrame:
    return staged.table("quarantine").filter(pl.col("table_name") == table)


def test_the_file_of_lihc_that_holds_meso_is_noticed(staged: Staged) -> None:
    rows = quarantined(staged, "protein").filter(pl.col("path") == "raw/rtcga_rppa/LIHC.RPPA.rda")
    assert rows.height == 63
    assert rows.select("reason", "found", "effect").unique().rows() == [
        ("case is not of TCGA-LIHC, as the file is", "TCGA-MESO", "rejected")
    ]
    protein = staged.table("protein")
    assert protein.filter(pl.col("cohort") == "TCGA-LIHC").is_empty()
    assert protein.filter(pl.col("cohort") == "TCGA-MESO").height == 63


def test_an_rda_file_is_the_data_frame_in_it(landing: Path) -> None:
    frame = sources.read_table(sources.fingerprint(landing, landing / "raw" / "rtcga_rppa" / "UVM.RPPA.rda"))
    assert frame.shape == (12, 193)
    assert frame.columns[0] == "bcr_patient_barcode"
    assert set(frame.dtypes) == {pl.String()}


def test_one_aliquot_of_each_case_is_kept_and_the_others_are_named(staged: Staged) -> None:
    protein, others = staged.table("protein"), quarantined(staged, "protein").filter(pl.col("effect") == "left_out")
    assert protein["case_id"].is_unique().all()
    assert protein.height == 6693
    assert others.height == 36
    assert others["found"].str.contains(r"^(TCGA-.{7})-\S+ \(counts: TCGA-.{7}-\S+\)$").all()


def test_z_scores_of_tens_of_thousands_are_found_and_stay(staged: Staged) -> None:
    found = quarantined(staged, "rna").filter(pl.col("found").str.starts_with("FGF4:"))
    assert found.select("cohort", "found", "reason", "effect").rows() == [
        ("TCGA-BRCA", "FGF4: 9 values, the farthest 36893.305", "values outside the plausible -50 to 50", "kept")
    ]
    assert staged.table("rna").select(pl.col("values").list.max().max()).item() == pytest.approx(36893.305)


def test_every_project_has_its_notes_on_endpoints(staged: Staged, contract: Contract) -> None:
    notes = staged.table("endpoint_notes")
    assert notes.height == 4 * len(contract.cohorts)
    none = notes.filter(pl.col("suitability") == "not_available")
    assert set(none.select("project_id", "endpoint").rows()) == {(f"TCGA-{name}", "dfi") for name in ("SKCM", "THYM", "UVM")}


def test_real_reports_have_a_text_layer(landing: Path) -> None:
    with Documents("utf-8", has_ocr=False) as documents:
        texts = [documents.text(path) for path in sorted((landing / "raw" / "reports_grasool" / "pdf").glob("*.pdf"))]
    assert len(texts) == 6
    assert all(len(text) > 500 for text in texts)
