"""A landing folder as the GDC's client fills it, in miniature: synthetic cases, with the files' real headers and oddities."""

import gzip
import json
from pathlib import Path
from typing import Any

GENES = {  # id: (name, type); two share a name
    "ENSG00000141510.18": ("TP53", "protein_coding"),
    "ENSG00000136997.22": ("MYC", "protein_coding"),
    "ENSG00000146648.21": ("EGFR", "protein_coding"),
    "ENSG00000002586.20": ("CD99", "protein_coding"),
    "ENSG00000002586.20_PAR_Y": ("CD99", "protein_coding"),
    "ENSG00000228630.5": ("HOTAIR", "lncRNA"),
}
ANTIBODIES = {"AGID00100": "1433BETA", "AGID00111": "ACETYLATUBULINLYS40", "AGID00120": "BRAF"}
_STAR = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded fpkm_uq_unstranded"
_COPIES = "gene_id gene_name chromosome start end copy_number min_copy_number max_copy_number"
_RPPA = "AGID lab_id catalog_number set_id peptide_target protein_expression"
_MAF = "Hugo_Symbol Variant_Classification HGVSp_Short Tumor_Sample_Barcode"
_FILES = "file_id path file_name data_type workflow_type project_id case_id sample_id sample_type aliquot_id"

STAR, COPIES, RPPA = "Gene Expression Quantification", "Gene Level Copy Number", "Protein Expression Quantification"
MAF, REPORT = "Masked Somatic Mutation", "Pathology Report"
WORKFLOWS = {STAR: "STAR - Counts", COPIES: "ASCAT3", MAF: "Aliquot Ensemble Somatic Variant Merging and Masking"}
PRIMARY = "Primary Tumor"


class GdcLanding:
    """A folder to be filled: `add` puts a file there, `write` the lists."""

    def __init__(self, root: Path, num_cases: int = 12) -> None:
        self.root = root
        self.case_ids = [f"TCGA-{'ABCDEF'[n % 6]}{n % 6}-{n:04d}" for n in range(num_cases)]
        self.cases = [case(case_id, number) for number, case_id in enumerate(self.case_ids)]
        self.files: list[dict[str, str]] = []
        self.redacted: list[tuple[str, str]] = []
        self._num_added = 0

    def add(
        self, data_type: str, name: str, data: bytes, case_id: str, barcode: str = "01A-11R-A144-07", sample_type: str = PRIMARY
    ) -> Path:
        file_id = f"file-{self._num_added:03d}"
        self._num_added += 1
        path = self.root / "gdc" / "files" / file_id / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        row = {
            "file_id": file_id,
            "path": path.relative_to(self.root).as_posix(),
            "file_name": name,
            "data_type": data_type,
            "workflow_type": WORKFLOWS.get(data_type, ""),
            "project_id": "TCGA-BRCA",
            "case_id": case_id,
            "sample_id": f"{case_id}-{barcode[:3]}",
            "sample_type": sample_type,
            "aliquot_id": f"{case_id}-{barcode}",
        }
        self.files.append(row)
        return path

    def write(self) -> Path:
        folder = self.root / "gdc"
        folder.mkdir(exist_ok=True)
        (folder / "cases.json").write_text(json.dumps(self.cases, indent=1), encoding="utf-8")
        (folder / "files.tsv").write_text(table(_FILES.split(), [list(row.values()) for row in self.files]), encoding="utf-8")
        redacted = [[case_id, reason, "", ""] for case_id, reason in self.redacted]
        (folder / "redacted.tsv").write_text(table(["case_id", "reason", "annotation_id", "seen_at"], redacted), "utf-8")
        return self.root


def case(case_id: str, number: int) -> dict[str, Any]:
    """A case as the cases endpoint has it: every third died; the second diagnosis is a metastasis."""
    is_dead = number % 3 == 0
    diagnosis = {
        "submitter_id": f"{case_id}_diagnosis",
        "diagnosis_is_primary_disease": True,
        "age_at_diagnosis": 365.25 * (50 + number),
        "days_to_diagnosis": 0,
        "days_to_last_follow_up": None if is_dead else 400.0 + number,
        "ajcc_pathologic_stage": "Stage IIA",
        "tumor_grade": "Not Reported",
        "primary_diagnosis": "Infiltrating duct carcinoma, NOS",
        "year_of_diagnosis": 2009,
        "treatments": [{"submitter_id": f"{case_id}_treatment{n}", "treatment_type": "Surgery, NOS"} for n in range(2)],
    }
    metastasis = {
        "submitter_id": f"{case_id}_diagnosis2",
        "diagnosis_is_primary_disease": False,
        "days_to_diagnosis": 300,
        "age_at_diagnosis": 1,
    }
    return {
        "submitter_id": case_id,
        "id": f"uuid-{number}",
        "project": {"project_id": "TCGA-BRCA"},
        "demographic": {
            "vital_status": "Dead" if is_dead else "Alive",
            "days_to_death": 300 + number if is_dead else None,
            "gender": "female" if number % 2 else "male",
            "race": "not reported" if number == 1 else "white",
        },
        "diagnoses": [metastasis, diagnosis] if number % 2 else [diagnosis],
        "follow_ups": [{"submitter_id": f"{case_id}_follow_up{n}", "days_to_follow_up": 90 * n + number} for n in range(3)],
    }


def table(header: list[str], rows: list[list[object]]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in [header, *rows])


def star_counts(tpm: dict[str, float], genes: dict[str, tuple[str, str]] = GENES) -> bytes:
    """STAR's counts as the GDC augments them; `tpm` by gene name."""
    counted = [[f"N_{name}", "", "", 1000, 10, 10, "", "", ""] for name in ("unmapped", "multimapping", "noFeature", "ambiguous")]
    rows = [[gene, name, kind, 7, 3, 4, tpm.get(name, 0.5), 0.1, 0.2] for gene, (name, kind) in genes.items()]
    return f"# gene-model: GENCODE v36\n{table(_STAR.split(), [*counted, *rows])}".encode()


def copy_numbers(copies: dict[str, int]) -> bytes:
    """Gene-level copy number; a gene that no segment covers has empty fields."""
    rows = [[g, n, "chr1", 1, 2, copies.get(n, ""), copies.get(n, ""), copies.get(n, "")] for g, (n, _) in GENES.items()]
    return table(_COPIES.split(), rows).encode()


def rppa(values: dict[str, str]) -> bytes:
    return table(_RPPA.split(), [[agid, 1, 2, "Old", name, values.get(name, "NA")] for agid, name in ANTIBODIES.items()]).encode()


def maf(case_id: str, *variants: tuple[str, str, str]) -> bytes:
    rows = [[*variant, f"{case_id}-01A-11D-A10Y-09"] for variant in variants]
    return gzip.compress(f"#version gdc-1.0.0\n#n.analyzed.samples 1\n{table(_MAF.split(), rows)}".encode(), mtime=0)


def pdf(text: str) -> bytes:
    """A PDF of one page with a line of text, or without any."""
    shown = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode() if text else b""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(shown), shown),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    written, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(written))
        written += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    entries = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(written))
    return written + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + entries + trailer


REPORT_TEXT = "Infiltrating duct carcinoma of the breast, margins free, three of eleven lymph nodes positive."


def filled(root: Path) -> GdcLanding:
    """A landing folder with a file of every kind for each case."""
    landing = GdcLanding(root)
    for number, case_id in enumerate(landing.case_ids):
        landing.add(STAR, f"{number}.rna_seq.augmented_star_gene_counts.tsv", star_counts({"TP53": 3.0, "MYC": number}), case_id)
        landing.add(COPIES, f"{number}.ascat3.gene_level_copy_number.v36.tsv", copy_numbers({"TP53": 1, "MYC": 5}), case_id)
        landing.add(RPPA, f"{number}_RPPA_data.tsv", rppa({"BRAF": "-0.25", "1433BETA": str(number / 10)}), case_id)
        variants = [("TP53", "Missense_Mutation", "p.R175H"), ("MYC", "Silent", "p.P57=")] if number % 2 else []
        landing.add(MAF, f"{number}.wxs.aliquot_ensemble_masked.maf.gz", maf(case_id, *variants), case_id)
        landing.add(REPORT, f"{case_id}.UUID-{number}.PDF", pdf(REPORT_TEXT), case_id)
    return landing
