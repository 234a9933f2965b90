"""What a careful researcher's pandas script does with the real TCGA landing folder, for benchmarks/ingest.py to be held against.

The same sources as cohorts/tcga.yaml has had since its first version, the same joins on the 12-character barcode, tables in
Parquet. No checks, no quarantine, no provenance: what a script leaves out.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import rdata

MISSING = ["", "[Not Available]", "[Not Applicable]", "[Not Evaluated]", "[Unknown]", "[Discrepancy]", "#N/A", "NA"]
STAGES = {"I": 1, "II": 2, "III": 3, "IV": 4}
BARCODE = r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})"


def ingest(landing: Path, target: Path) -> dict[str, int]:
    """Read the landing folder and write a Parquet file per table; return the rows of each."""
    target.mkdir(parents=True)
    raw = landing / "raw"
    cdr = pd.read_excel(raw / "tcga_cdr" / "TCGA-CDR-SupplementalTableS1.xlsx", sheet_name="TCGA-CDR", na_values=MISSING)
    cdr["case_id"] = _ids(cdr["bcr_patient_barcode"])
    cdr = cdr[cdr["Redaction"] != "Redacted"].drop_duplicates("case_id")
    cases = cdr[["case_id"]].assign(
        cohort="TCGA-" + cdr["type"], cancer_type=cdr["type"].str.lower(), site=cdr["case_id"].str[5:7]
    )
    known = set(cases["case_id"])
    written = {"cases": _write(cases, target, "cases"), "clinical": _write(_clinical(cdr), target, "clinical")}
    endpoints = [
        pd.DataFrame({"case_id": cdr["case_id"], "endpoint": name.lower(), "event": cdr[name], "days": cdr[f"{name}.time"]})
        for name in ("OS", "DSS", "DFI", "PFI")
    ]
    frame = pd.concat(endpoints).dropna()
    written["endpoints"] = _write(frame[frame["days"] > 0], target, "endpoints")
    written |= _porpoise(raw / "porpoise" / "mutsig", known, target)
    arms = pd.read_parquet(landing / "converted" / "ucscxenashiny" / "tcga_chr_alteration.parquet")
    arms["case_id"] = _ids(arms["Sample"].str.extract(BARCODE, expand=False))
    rank = {code: place for place, code in enumerate(["01", "03", "05", "02", "06"])}
    arms["rank"] = arms["Sample"].str.extract(r"-([0-9]{2})$", expand=False).map(rank)
    arms = arms[arms["case_id"].isin(known)].dropna(subset="rank").sort_values(["case_id", "rank"]).drop_duplicates("case_id")
    written["arms"] = _write(arms.drop(columns="rank"), target, "arms")
    variants = pd.read_parquet(landing / "converted" / "mutations_nonsilent.parquet")
    columns = ["case_id", "Hugo_Symbol", "Variant_Classification", "HGVSp_Short"]
    variants = variants[variants["case_id"].isin(known)][columns].drop_duplicates()
    written["variants"] = _write(variants, target, "variants")
    written["reports"] = _write(_reports(raw, known), target, "reports")
    written["slides"] = _slides(raw / "hif2gene", known, target)
    return written


def _ids(column: pd.Series) -> pd.Series:
    return column.str.strip().str.upper()


def _write(frame: pd.DataFrame, target: Path, name: str) -> int:
    frame.to_parquet(target / f"{name}.parquet", index=False)
    return len(frame)


def _clinical(cdr: pd.DataFrame) -> pd.DataFrame:
    stage = cdr["ajcc_pathologic_tumor_stage"].fillna(cdr["clinical_stage"])
    return pd.DataFrame(
        {
            "case_id": cdr["case_id"],
            "age": cdr["age_at_initial_pathologic_diagnosis"],
            "sex": cdr["gender"].str.lower(),
            "stage": stage.str.extract(r"Stage (IV|III|II|I)", expand=False).map(STAGES),
            "grade": cdr["histological_grade"].str.extract(r"G([1-4])", expand=False).astype(float),
            "histology": cdr["histological_type"].str.lower(),
            "race": cdr["race"].str.lower(),
            "year": cdr["initial_pathologic_dx_year"],
        }
    )


def _porpoise(folder: Path, known: set[str], target: Path) -> dict[str, int]:
    """One wide table per cancer type: RNA, gene copy number and mutation flags, each row repeated for the case's slides."""
    written = dict.fromkeys(("rna", "copy_number", "mutated"), 0)
    for path in sorted(folder.glob("tcga_*_all_clean.csv.zip")):
        frame = pd.read_csv(path, low_memory=False)
        frame["case_id"] = _ids(frame["case_id"])
        frame = frame[frame["case_id"].isin(known)].drop_duplicates("case_id")
        for kind, suffix in (("rna", "_rnaseq"), ("copy_number", "_cnv"), ("mutated", "_mut")):
            columns = [name for name in frame.columns if name.endswith(suffix)]
            if columns:
                values = frame[["case_id", *columns]].astype(dict.fromkeys(columns, np.float32))
                written[kind] += _write(values, target, f"{kind}-{path.name.split('_')[1]}")
    return written


def _reports(raw: Path, known: set[str]) -> pd.DataFrame:
    frames = []
    for path in sorted((raw / "reports_grasool").glob("*.csv.gz")):
        frame = pd.read_csv(path, usecols=["pdf_file_name_path", "ocr_text"])
        case_id = _ids(frame["pdf_file_name_path"].str.extract(BARCODE, expand=False))
        frames.append(pd.DataFrame({"case_id": case_id, "report_id": frame["pdf_file_name_path"], "text": frame["ocr_text"]}))
    for name, case_column, text_column in (
        ("2023-04-03_breast_full.xlsx", "barcode", "text"),
        ("12-03-2023_model_data.xlsx", "Pateint_ID_text", "TEXT"),
    ):
        frame = pd.read_excel(raw / "reports_thesis" / name)
        frames.append(
            pd.DataFrame({"case_id": _ids(frame[case_column]), "report_id": frame[case_column], "text": frame[text_column]})
        )
    reports = pd.concat(frames).dropna()
    reports["text"] = reports["text"].astype(str).str.strip()
    return reports[reports["case_id"].isin(known) & (reports["text"].str.len() >= 50)].drop_duplicates("report_id")


def _slides(folder: Path, known: set[str], target: Path) -> int:
    count = 0
    for path in sorted([*folder.glob("*.hifs.csv.gz"), *folder.glob("brca.*")]):
        frame = rdata.read_rds(path) if path.suffix == ".rds" else pd.read_csv(path, low_memory=False)
        frame["case_id"] = _ids(frame["bcr_patient_barcode"])
        columns = [name for name in frame.columns if name.upper().endswith(("_HE", "_FFPE"))]
        vectors = frame[frame["case_id"].isin(known)][["case_id", *columns]].dropna().drop_duplicates()
        values = vectors[columns].to_numpy(np.float64)
        vectors[columns] = (np.sign(values) * np.log1p(np.abs(values))).astype(np.float16)
        np.savez(target / f"slides-{path.name}.npz", case_id=vectors["case_id"].to_numpy(str), values=vectors[columns].to_numpy())
        count += len(vectors)
    return count
