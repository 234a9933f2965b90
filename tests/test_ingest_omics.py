"""Vectors, mutations and reports: panels, samples, gaps, and what is rejected with which reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from gdc_landing import maf
from ingesting import changed, first_case, ids, of_case, reasons, rejected, repeated, same_rows, state

from feature_store.audit import audit
from feature_store.contract import Contract
from feature_store.contract.feature_sources import MutationMatrixSource, VariantFilesSource
from feature_store.contract.formats import TableFormat
from feature_store.contract.rules import Identifier, PickKey
from feature_store.errors import ColumnMissingError, SourceFormatError
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


def test_a_case_without_any_value_does_not_have_the_modality(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    def blank(frame: pl.DataFrame) -> pl.DataFrame:
        is_first = pl.int_range(pl.len()) == 0
        return frame.with_columns(
            pl.when(~is_first).then(pl.col(name)).alias(name) for name in frame.columns if name != "case_id"
        )

    landing = corrupt({"rna.csv.gz": blank})
    staged, case_id = bare(landing), first_case(landing, "rna.csv.gz")
    assert case_id not in ids(staged, "rna")
    assert state(staged, case_id, "rna") == ("absent", "no source has it")
    assert staged.table("rna").height == read_table(landing / "rna.csv.gz").height - 1


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
    of_sample = (
        PickKey(column="case_id", extract="-([0-9]{2})[A-Z]?$", prefer=("01", "06")),
        PickKey(column="case_id", extract="-[0-9]{2}([A-Z])$", order="first"),
    )
    spec = synthetic_contract.rna[0].model_copy(update={"pick": of_sample})
    staged = bare(landing, rna=(spec,))
    panel = staged.table("gene_panels").filter(pl.col("modality") == "rna").sort("position")["feature"].to_list()
    assert staged.table("rna").filter(of_case == first)["values"].item()[panel.index("EGFR")] == 2.0  # the row of 01A
    counts = f" (counts: {first}-01A)"
    assert sorted(rejected(staged, "rna").select("case_id_found", "found", "reason", "effect").rows()) == [
        *(
            (f"{first}-{kind}", f"{first}-{kind}{counts}", "another of the case counts", "left_out")
            for kind in ("01B", "06", "11")
        ),
        (f"{second}-11", f"{second}-11", "case_id is none of 01, 06", "rejected"),
    ]
    assert state(staged, first, "rna") == ("present", None)
    assert state(staged, second, "rna") == ("failed_check", "case_id is none of 01, 06")


def test_a_missing_sample_column_is_named(bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path) -> None:
    spec = synthetic_contract.rna[0].model_copy(update={"pick": (PickKey(column="sample", order="first"),)})
    with pytest.raises(ColumnMissingError, match=r"no column \['sample'\]"):
        bare(clean_landing, rna=(spec,))


def test_two_rna_rows_of_a_case_without_a_sample_rule(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt({"rna.csv.gz": repeated(pl.lit("9").alias("EGFR_rnaseq"))})
    staged, case_id = bare(landing), first_case(landing, "rna.csv.gz")
    assert reasons(staged, "rna", case_id) == ["duplicate: rows of the same case contradict each other"] * 2
    assert state(staged, case_id, "rna") == ("failed_check", "duplicate: rows of the same case contradict each other")


def test_implausible_values_are_reported_and_stay(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract, clean: Staged
) -> None:
    far = {0: ("EGFR", "36893.3"), 1: ("EGFR", "51"), 2: ("MYC", "-50.5"), 3: ("MYC", "50")}

    def spoil(frame: pl.DataFrame) -> pl.DataFrame:
        for row, (gene, value) in far.items():
            frame = changed(f"{gene}_rnaseq", value, at=row)(frame)
        return frame

    landing = corrupt({"rna.csv.gz": spoil})
    spec = synthetic_contract.rna[0].model_copy(update={"plausible": (-50, 50)})
    staged = bare(landing, rna=(spec,))
    case_ids = [case_id[:11] for case_id in read_table(landing / "rna.csv.gz")["case_id"][:4]]
    rows = rejected(staged, "rna").sort("found").select("cohort", "path", "case_id_found", "found", "reason", "effect").rows()
    found = read_table(landing / "rna.csv.gz")["case_id"]
    assert rows == [
        (
            "synthetic",
            "rna.csv.gz",
            found[0],
            "EGFR: 2 values, the farthest 36893.3",
            "values outside the plausible -50 to 50",
            "kept",
        ),
        (
            "synthetic",
            "rna.csv.gz",
            found[2],
            "MYC: 1 values, the farthest -50.5",
            "values outside the plausible -50 to 50",
            "kept",
        ),
    ]
    assert set(case_ids) <= set(ids(staged, "rna"))
    assert [state(staged, case_id, "rna") for case_id in case_ids] == [("present", None)] * 4
    assert staged.table("rna").height == clean.table("rna").height


def test_a_logarithm_is_taken_where_declared_and_of_nothing_negative(
    corrupt: Corrupt, bare: Callable[..., Staged], synthetic_contract: Contract
) -> None:
    counts = corrupt({"rna.csv.gz": lambda frame: frame.with_columns(pl.exclude("case_id").str.strip_prefix("-"))})
    plain = bare(counts).table("rna").sort("case_id")["values"].list.to_array(80).to_numpy()
    spec = synthetic_contract.rna[0].model_copy(update={"transform": "log2p1"})
    logs = bare(counts, rna=(spec,)).table("rna").sort("case_id")["values"].list.to_array(80).to_numpy()
    np.testing.assert_allclose(logs, np.log2(plain + 1), rtol=1e-6)
    with pytest.raises(SourceFormatError, match=r"rna\.csv\.gz: -.* among the values, expected none under 0 for log2\(x \+ 1\)"):
        bare(corrupt(), rna=(spec,))


def test_protein_is_a_modality_of_its_own(bare: Callable[..., Staged], synthetic_contract: Contract, clean_landing: Path) -> None:
    staged = bare(clean_landing, protein=(synthetic_contract.rna[0].model_copy(update={"unit": "RPPA"}),), rna=())
    assert staged.table("protein").height > 0
    assert staged.table("rna").is_empty()
    assert set(staged.table("gene_panels")["modality"]) == {"protein", "copy_number"}
    assert state(staged, ids(staged, "protein")[0], "protein") == ("present", None)


def test_silent_variants_are_dropped_and_the_case_counts_as_sequenced(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing = corrupt()
    path, case_id = landing / "mutations.csv", first_case(landing, "mutations.csv")
    silent = pl.when(of_case == case_id).then(pl.lit("Silent")).otherwise(pl.col("Variant_Classification"))
    write_table(path, read_table(path).with_columns(silent.alias("Variant_Classification")))
    staged = bare(landing)
    assert "Silent" not in staged.table("mutations")["variant_classification"]
    assert case_id not in ids(staged, "mutations")
    assert state(staged, case_id, "mutations") == ("present", None)


def test_a_maf_per_case_is_found_by_its_path(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    """Without a table of files the path tells the case; the barcode in the rows is not asked, and a file may have no row."""
    landing = corrupt()
    first, second, third = read_table(landing / "clinical.csv")["case_id"].sort()[:3]
    (landing / "mafs").mkdir()
    for case_id, variants in (
        (first, [("TP53", "Missense_Mutation", "p.R175H")] * 2),
        (second, []),
        (third, [("MYC", "Silent", "")]),
    ):
        (landing / "mafs" / f"{case_id}.maf.gz").write_bytes(maf("of-another", *variants))
    spec = VariantFilesSource(
        layout="variant_files",
        path="mafs/*.maf.gz",
        case_id=Identifier(column="path", extract=r"/(.+)\.maf"),
        file=TableFormat(comment="#"),
        gene_symbol="Hugo_Symbol",
        variant_classification="Variant_Classification",
        protein_change="HGVSp_Short",
        drop_classifications=("Silent",),
    )
    staged = bare(landing, mutations=(spec,))
    assert staged.table("mutations").select("case_id", "gene_symbol", "protein_change").rows() == [(first, "TP53", "p.R175H")]
    assert [state(staged, case_id, "mutations")[0] for case_id in (first, second, third)] == ["present"] * 3
    assert f"mafs/{second}.maf.gz" in staged.table("sources")["path"]


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
