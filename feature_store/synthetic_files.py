"""How the synthetic cohort's latent factors show in files: expression, arms, mutations, report prose, patch features.

What belongs here: measurement models (latent factor in, table or array out) and writers that give the same bytes for
the same input. What does not: the factors, survival, what is missing or spoiled (feature_store/synthetic.py).

Shapes: N cases, F factors, G genes, A arms, P patches of a slide, D feature width, K tissue classes, S sites.
"""

import gzip
from pathlib import Path

import h5py
import numpy as np
import polars as pl
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Real HGNC symbols head every gene list, so that a query for a known gene finds one; the rest are SYNG0001, SYNG0002, …
_SYMBOLS = (
    "TP53 EGFR ERBB2 MYC KRAS PIK3CA PTEN RB1 CDKN2A BRAF APC ARID1A ATM BRCA1 BRCA2 CTNNB1 FBXW7 IDH1 KEAP1 KMT2D "
    "NF1 NFE2L2 NOTCH1 SMAD4 STK11 VHL PBRM1 SETD2 BAP1 FGFR3 MKI67 TOP2A AURKA CCNB1 CCND1 CCNE1 CDK4 MDM2 ESR1 PGR "
    "AR GATA3 FOXA1 KRT5 KRT18 VIM CDH1 FN1 COL1A1 VEGFA HIF1A CA9 CD274 CD8A CD3E PDCD1 FOXP3 GZMB MS4A1 PTPRC"
)
SYMBOLS = tuple(_SYMBOLS.split())
NUM_DRIVERS = 24
_ACROCENTRIC = (13, 14, 15, 21, 22)  # their short arms carry no genes to call: TCGA's arm tables leave them out
ARMS = tuple(f"{n}{arm}" for n in range(1, 23) for arm in "pq" if not (arm == "p" and n in _ACROCENTRIC))

# A finding's three levels, benign to grave, each in two wordings. A level depends on the report factor alone.
_FINDINGS = (
    (("No necrosis is seen.", "Necrosis is absent."), ("Focal necrosis is noted.", "There are small necrotic foci."),
     ("Extensive geographic necrosis is present.", "Confluent necrosis involves over half of the lesion.")),
    (("Lymphovascular invasion is not identified.", "Vessels are free of tumor."),
     ("Lymphovascular invasion is suspected but indeterminate.", "A single vessel may contain tumor cells."),
     ("Lymphovascular invasion is extensive.", "Multiple lymphatic channels are plugged by tumor emboli.")),
    (("Perineural invasion is absent.", "Nerves are uninvolved."),
     ("One nerve is abutted by tumor.", "Perineural spread is equivocal."),
     ("Perineural invasion is readily identified.", "Tumor encircles several large nerves.")),
    (("All surgical margins are widely negative.", "The resection margins are clear by more than 10 mm."),
     ("The closest margin is 1 mm.", "Margins are negative but close."),
     ("The deep margin is involved.", "Tumor extends to the inked margin.")),
    (("The tumor is well differentiated with formed glands.", "Architecture is well preserved."),
     ("The tumor is moderately differentiated.", "Gland formation is partial."),
     ("The tumor is poorly differentiated with solid sheets.", "Anaplastic cells grow without any architecture.")),
    (("Mitotic figures are rare.", "Mitoses number fewer than one per ten high power fields."),
     ("Mitotic activity is moderate.", "Mitoses number five per ten high power fields."),
     ("Mitoses are brisk with atypical forms.", "Mitoses exceed twenty per ten high power fields.")),
    (("A dense lymphocytic infiltrate surrounds the tumor.", "Tumor infiltrating lymphocytes are brisk."),
     ("The inflammatory response is patchy.", "Scattered lymphocytes are noted at the edge."),
     ("Almost no host inflammatory response is seen.", "Lymphocytes are nearly absent.")),
    (("The advancing border is pushing and circumscribed.", "A fibrous capsule is intact."),
     ("The border is focally irregular.", "The capsule is focally breached."),
     ("The border is diffusely infiltrative.", "Tumor buds are numerous at the invasive front.")),
    (("Nuclei are uniform.", "Nuclear atypia is mild."),
     ("Nuclear pleomorphism is moderate.", "Nucleoli are conspicuous."),
     ("Bizarre giant nuclei are frequent.", "Marked nuclear pleomorphism with multinucleated cells is seen.")),
    (("The adjacent soft tissue is unremarkable.", "Surrounding fat is not involved."),
     ("Tumor touches the adjacent soft tissue.", "Minimal extension into fat is seen."),
     ("Tumor invades adjacent soft tissue broadly.", "Satellite nodules are present in the surrounding fat.")),
)  # fmt: skip
_OPENINGS = (
    "Received in formalin is a {size} cm specimen labeled with the accession number.",
    "The specimen consists of an oriented resection measuring {size} cm in greatest dimension.",
    "Sections show a {size} cm mass.",
)
_FILLERS = (
    "Representative sections are submitted in {blocks} cassettes.",
    "Immunohistochemical stains were performed with appropriate controls.",
    "The cut surface is tan to gray.", "Clinical correlation is recommended.", "A frozen section was not requested.",
    "The slides were reviewed at the multidisciplinary conference.",
)  # fmt: skip

_AMINO_ACIDS = tuple("ACDEFGHIKLMNPQRSTVWY")
_VARIANTS = ("Missense_Mutation", "Nonsense_Mutation", "Frame_Shift_Del", "Splice_Site", "Silent")


def gene_symbols(num_genes: int) -> list[str]:
    """Return the gene list of that length: real symbols first, then made-up ones."""
    made_up = (f"SYNG{i:04d}" for i in range(1, max(0, num_genes - len(SYMBOLS)) + 1))
    return [*SYMBOLS[:num_genes], *made_up]


def rna_frame(
    case_ids: list[str], factors_NF: FloatArray, types_N: IntArray, num_genes: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Return a row per case: `case_id`, then `<GENE>_rnaseq` as z-scores over the cohort.

    Each factor loads on 15% of the genes; cancer type and four factors without meaning for survival move all of them.
    """
    (num_cases, num_factors), num_nuisance = factors_NF.shape, 4
    loadings_FG = rng.normal(0, 0.8, (num_factors, num_genes)) * (rng.random((num_factors, num_genes)) < 0.15)
    means_TG = rng.normal(0, 0.4, (int(types_N.max()) + 1, num_genes))
    nuisance_NG = rng.normal(size=(num_cases, num_nuisance)) @ rng.normal(0, 0.4, (num_nuisance, num_genes))
    x_NG = factors_NF @ loadings_FG + means_TG[types_N] + nuisance_NG + rng.normal(size=(num_cases, num_genes))
    z_NG = ((x_NG - x_NG.mean(axis=0)) / x_NG.std(axis=0)).round(4)
    values = pl.DataFrame(z_NG, schema=[f"{gene}_rnaseq" for gene in gene_symbols(num_genes)])
    return values.insert_column(0, pl.Series("case_id", case_ids))


def copy_number_frame(case_ids: list[str], factor_N: FloatArray, rng: np.random.Generator) -> pl.DataFrame:
    """Return a row per case: `case_id`, then a call of -1, 0 or 1 per arm; half of the arms follow the factor."""
    loadings_A = np.where(rng.random(len(ARMS)) < 0.5, 1.0, 0.0) * rng.choice([-1.0, 1.0], len(ARMS))
    x_NA = factor_N[:, None] * loadings_A + rng.normal(0, 0.3, len(ARMS)) + rng.normal(size=(len(factor_N), len(ARMS)))
    calls_NA = (x_NA > 0.9).astype(np.int64) - (x_NA < -0.9)
    return pl.DataFrame(calls_NA, schema=list(ARMS)).insert_column(0, pl.Series("case_id", case_ids))


def mutation_frame(case_ids: list[str], factor_N: FloatArray, num_genes: int, rng: np.random.Generator) -> pl.DataFrame:
    """Return a row per mutation; drivers follow the factor (half of them inversely), passengers follow nothing.

    Every case has at least one row: a sequenced case without mutations could not be told from one not sequenced.
    """
    genes = np.array(gene_symbols(max(num_genes, len(SYMBOLS))))
    loadings = np.where(np.arange(NUM_DRIVERS) % 2 == 0, 1.8, -1.8)
    chance = 1 / (1 + np.exp(1.0 - factor_N[:, None] * loadings))
    is_driver = rng.random(chance.shape) < chance
    rows = []
    for i, case_id in enumerate(case_ids):
        passengers = rng.choice(genes[NUM_DRIVERS:], size=1 + rng.poisson(8))
        for gene in [*genes[:NUM_DRIVERS][is_driver[i]], *passengers]:
            weights = (0.7, 0.12, 0.12, 0.06, 0.0) if gene in genes[:NUM_DRIVERS] else (0.6, 0.05, 0.05, 0.05, 0.25)
            variant = str(rng.choice(_VARIANTS, p=weights))
            rows.append((case_id, str(gene), variant, _protein_change(variant, rng), f"{case_id}-01A"))
    columns = ["case_id", "Hugo_Symbol", "Variant_Classification", "HGVSp_Short", "Tumor_Sample_Barcode"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def _protein_change(variant: str, rng: np.random.Generator) -> str:
    before, after = rng.choice(_AMINO_ACIDS, size=2, replace=False)
    ending = {"Missense_Mutation": after, "Nonsense_Mutation": "*", "Frame_Shift_Del": "fs", "Silent": "="}
    position = int(rng.integers(2, 1200))
    return f"p.X{position}_splice" if variant == "Splice_Site" else f"p.{before}{position}{ending[variant]}"


def report_text(diagnosis: str, factor: float, rng: np.random.Generator) -> str:
    """Return a pathology report's prose; the level of each finding follows the factor, wording and order do not."""
    levels = np.digitize(factor + rng.normal(0, 0.6, len(_FINDINGS)), (-0.6, 0.6))
    findings = [str(rng.choice(finding[level])) for finding, level in zip(_FINDINGS, levels, strict=True)]
    fillers = [text.format(blocks=rng.integers(3, 15)) for text in rng.choice(_FILLERS, size=2, replace=False)]
    opening = str(rng.choice(_OPENINGS)).format(size=f"{rng.uniform(1, 9):.1f}")
    body = rng.permutation(np.array([*findings, *fillers])).tolist()
    return f"DIAGNOSIS: {diagnosis}. GROSS DESCRIPTION: {opening} MICROSCOPIC DESCRIPTION: {' '.join(body)}"


def report_frame(case_ids: list[str], factor_N: FloatArray, diagnoses: list[str], rng: np.random.Generator) -> pl.DataFrame:
    """Return a row per report: `report_id`, `case_id`, `text`; one case in twenty has an addendum, a second row."""
    rows = [
        (f"{case_id}-R{1 + k}", case_id, report_text(diagnosis, factor, rng))
        for i, (case_id, factor, diagnosis) in enumerate(zip(case_ids, factor_N, diagnoses, strict=True))
        for k in range(2 if i % 20 == 0 else 1)
    ]
    return pl.DataFrame(rows, schema=["report_id", "case_id", "text"], orient="row")


def slide_frame(case_ids: list[str], fraction_with_second: float, rng: np.random.Generator) -> pl.DataFrame:
    """Return a row per slide: `slide_id`, `case_id`, `mpp` (micrometres a pixel, level 0), `magnification`, `stain`."""
    num_slides = 1 + (rng.random(len(case_ids)) < fraction_with_second)
    scanned_at = rng.choice([40, 20], size=len(case_ids), p=[0.85, 0.15])
    rows = [
        (f"{case_id}-01Z-00-DX{1 + k}", case_id, 10 / int(magnification), int(magnification), "H&E")
        for case_id, num, magnification in zip(case_ids, num_slides, scanned_at, strict=True)
        for k in range(num)
    ]
    return pl.DataFrame(rows, schema=["slide_id", "case_id", "mpp", "magnification", "stain"], orient="row")


class PatchBank:
    """What patch features are drawn from: class prototypes, a stain shift per site, and one long run of noise.

    A patch is its class's prototype + its site's and slide's shift + noise. Noise is read at a random element of one
    pre-drawn run: fresh draws for 750 M values would take over ten times as long as the rest of the generator.
    """

    num_classes = 5  # class 0 is the grave one, whose share of a slide's patches carries the slide factor

    def __init__(self, dim: int, max_patches: int, num_sites: int, rng: np.random.Generator) -> None:
        self.prototypes_KD = rng.normal(0, 0.8, (self.num_classes, dim))
        self.shifts_SD = rng.normal(0, 0.15, (num_sites, dim))
        self.slack = 1 << 16
        self.noise = rng.standard_normal(max_patches * dim + self.slack, dtype=np.float32)

    def draw(self, num_patches: int, share: float, site: int, rng: np.random.Generator) -> tuple[NDArray[np.float16], IntArray]:
        """Return features (P, D) and the patches' grid cells (P, 2); the grave class lies together around one spot."""
        side = int(np.ceil(np.sqrt(1.6 * num_patches)))
        cells = np.sort(rng.choice(side * side, size=num_patches, replace=False))
        cells_P2 = np.stack([cells % side, cells // side], axis=1)
        labels = rng.choice(np.arange(1, self.num_classes), size=num_patches, p=rng.dirichlet([4.0, 3.0, 2.0, 2.0]))
        distance = ((cells_P2 - rng.uniform(0, side, 2)) ** 2).sum(axis=1)
        labels[np.argsort(distance, kind="stable")[: round(share * num_patches)]] = 0

        dim = self.prototypes_KD.shape[1]
        # Within the prototypes' span, so that a plain mean of the patches mistakes it for shares; attention does not.
        stain_shift = rng.normal(0, 0.1, self.num_classes) @ self.prototypes_KD
        slide_shift = self.shifts_SD[site] + stain_shift + rng.normal(0, 0.05, dim)
        means_KD = (self.prototypes_KD + slide_shift).astype(np.float32)
        start = int(rng.integers(self.slack))
        noise_PD = self.noise[start : start + num_patches * dim].reshape(num_patches, dim)
        features_PD = np.empty((num_patches, dim), np.float16)
        for first in range(0, num_patches, 256):  # 256 rows of float32 stay in the cache
            part = slice(first, first + 256)
            features_PD[part] = means_KD[labels[part]] + noise_PD[part]
        return features_PD, cells_P2


def write_slide(path: Path, features_PD: NDArray[np.float16], coords_P2: IntArray, magnification: int) -> None:
    """Write one slide as TRIDENT lays it out: `features`, `coords` (level-0 pixels) and the attributes on each."""
    step_px = 256 * magnification // 20
    width_px, height_px = (int(value) for value in coords_P2.max(axis=0) + step_px)
    about = {
        "patch_size": 256, "patch_size_level0": step_px, "level0_magnification": magnification,
        "target_magnification": 20, "overlap": 0, "name": path.stem, "savetodir": path.parent.name,
        "level0_width": width_px, "level0_height": height_px,
    }  # fmt: skip
    with h5py.File(path, "w", libver=("earliest", "v110")) as file:  # fixed bounds: the same bytes under a newer HDF5
        features = file.create_dataset("features", data=features_PD, track_times=False)
        features.attrs.update({"name": path.stem, "savetodir": path.parent.name})
        file.create_dataset("coords", data=coords_P2, track_times=False).attrs.update(about)


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a CSV, gzipped where the name ends in .gz (without name or time in its header)."""
    text = frame.write_csv().encode()
    path.write_bytes(gzip.compress(text, compresslevel=6, mtime=0) if path.suffix == ".gz" else text)
