"""Vectors, mutations and reports: panels, samples, gaps, and what is rejected with which reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import changed, first_case, ids, of_case, reasons, rejected, repeated, same_rows, state

from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.rules import SampleRule
from feature_store.contract.sources import MutationMatrixSource
from feature_store.errors import ColumnMissingError
from feature_store.ingest.stage import Staged
from feature_store.synthetic_files import write_table

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
