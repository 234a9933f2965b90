"""A made-up cohort with known truth, written as a landing folder that the ordinary ingest reads: `make demo` and tests.

What belongs here: the cohort's truth (latent factors, survival, who lacks which modality) and the folder as a whole. What
does not: how a factor shows in a file (synthetic_files.py), what is spoiled (synthetic_dirt.py), or any way around the ingest.

Every section draws from its own generator (`_rng`), so a change in one leaves the draws of the others alone.
"""

import dataclasses
import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import polars as pl

from feature_store import synthetic_files as files
from feature_store.errors import LandingTakenError
from feature_store.progress import tracked
from feature_store.synthetic_dirt import Dirt, plant

LAYOUT_VERSION = 1  # raise it when the same config would give other bytes
MANIFEST = "MANIFEST.json"
_FILES = {
    "clinical": "clinical.csv", "rna": "rna.csv.gz", "copy_number": "copy_number.csv", "mutation": "mutations.csv",
    "report": "reports.csv", "slide": "slides.csv",
}  # fmt: skip
MODALITIES = tuple(_FILES)
_SECTIONS = (*MODALITIES, "cohort", "survival", "missing", "dirt", "factors")
_SITES_PER_TYPE = 4
# Log hazard per standard deviation of each modality's factor. At 0.65 the oracle's C-index is about .82.
_WEIGHT = 0.65


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """What to generate. `fraction_with_*` are shares of the cases; every case has clinical data and an outcome."""

    num_cases: int = 480
    cancer_types: tuple[str, ...] = ("AMBER", "BIRCH", "CEDAR", "DUNE")
    num_genes: int = 600
    slide_dim: int = 1024
    mean_patches: int = 2000
    fraction_with_rna: float = 0.90
    fraction_with_copy_number: float = 0.90
    fraction_with_mutation: float = 0.92
    fraction_with_report: float = 0.88
    fraction_with_slide: float = 0.75
    fraction_with_second_slide: float = 0.08
    has_dirt: bool = True
    seed: int = 20250912

    def __post_init__(self) -> None:
        is_unfit = (
            not 40 <= self.num_cases <= 9999
            or not 1 <= len(self.cancer_types) <= 25
            or min(self.slide_dim, self.mean_patches) < 8
        )
        if is_unfit:
            raise ValueError(f"synthetic config: {self}, expected 40 to 9999 cases, 1 to 25 types, 8 patches and dims or more")


@dataclasses.dataclass(frozen=True)
class _Truth:
    """The cohort before it is written: per case its id, cancer type, site, factors, log-hazard parts and modalities."""

    case_ids: list[str]
    type_index: files.IntArray  # (N,) into config.cancer_types
    site_index: files.IntArray
    factors: dict[str, files.FloatArray]  # (N,), or (N, F) where a modality has several
    parts: dict[str, files.FloatArray]  # (N,) each: log hazard by source, `baseline` by cancer type
    has: dict[str, np.ndarray]  # (N,) bool by modality


def oracle(config: SyntheticConfig) -> pl.DataFrame:
    """Return the truth that no file holds: `case_id`, `log_hazard`, and its summands, `baseline` and one a modality."""
    truth = _truth(config)
    total = np.sum(list(truth.parts.values()), axis=0)
    return pl.DataFrame({"case_id": truth.case_ids, "log_hazard": total, **truth.parts})


def write_landing(root: Path, config: SyntheticConfig) -> Path:
    """Write the landing folder, complete or not at all, and return it; one that holds this config is left alone."""
    if root.exists() and any(root.iterdir()):
        manifest = root / MANIFEST
        if manifest.is_file() and _identity(config).items() <= json.loads(manifest.read_text("utf-8")).items():
            return root
        raise LandingTakenError(
            f"landing folder {root}: holds other files, expected none or those of the same config. "
            "Remove it or name another folder."
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = root.parent / f".{root.name}.{uuid.uuid4().hex}.partial"
    try:
        partial.mkdir()
        _write(partial, config)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _rng(config: SyntheticConfig, section: str, index: int = 0) -> np.random.Generator:
    key = (_SECTIONS.index(section), index)
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=key))


def _identity(config: SyntheticConfig) -> dict[str, object]:
    about = {"layout_version": LAYOUT_VERSION, "config": dataclasses.asdict(config)}
    return dict(json.loads(json.dumps(about)))  # through JSON, so that it equals what a manifest gives back


def _diagnosis(cancer_type: str) -> str:
    return f"{cancer_type.title()} carcinoma"


def _truth(config: SyntheticConfig) -> _Truth:
    rng, num_cases, num_types = _rng(config, "cohort"), config.num_cases, len(config.cancer_types)
    shares = np.linspace(2, 1, num_types) if num_types > 1 else np.ones(1)
    types_N = rng.choice(num_types, size=num_cases, p=shares / shares.sum())
    sites_N = types_N * _SITES_PER_TYPE + rng.integers(_SITES_PER_TYPE, size=num_cases)
    codes = [chr(65 + site // _SITES_PER_TYPE) + chr(65 + site % _SITES_PER_TYPE) for site in sites_N]
    case_ids = [f"SYN-{code}-{i:04d}" for i, code in enumerate(codes, start=1)]

    rng = _rng(config, "factors")
    factors = {name: rng.normal(size=num_cases) for name in MODALITIES}
    factors["clinical"] = rng.normal(size=(num_cases, 3))  # age, stage, grade
    factors["rna"] = rng.normal(size=(num_cases, 2))  # the second matters in the last cancer type only
    parts = {"baseline": np.linspace(-0.4, 0.4, num_types)[types_N]}
    parts |= {name: _WEIGHT * factors[name] for name in MODALITIES if factors[name].ndim == 1}
    parts["clinical"] = _WEIGHT * factors["clinical"] @ np.array([0.48, 0.72, 0.5])  # of norm 1
    parts["rna"] = _WEIGHT * (factors["rna"][:, 0] + (types_N == num_types - 1) * factors["rna"][:, 1])

    rng, has = _rng(config, "missing"), {"clinical": np.ones(num_cases, bool)}
    for name in MODALITIES[1:]:
        num_with = round(getattr(config, f"fraction_with_{name}") * num_cases)
        has[name] = rng.permutation(num_cases) < num_with
    return _Truth(case_ids, types_N, sites_N, factors, {name: parts[name] for name in ("baseline", *MODALITIES)}, has)


def _clinical_frame(config: SyntheticConfig, truth: _Truth) -> pl.DataFrame:
    """Return the clinical table: Weibull times, half of them cut off by the calendar, which knows nothing of hazard."""
    rng, n = _rng(config, "survival"), config.num_cases
    log_hazard = np.sum(list(truth.parts.values()), axis=0)
    years = rng.integers(2005, 2017, size=n)
    censored_days = (2018 - years - rng.random(n)) * 365.25
    death_days = (rng.exponential(size=n) / np.exp(log_hazard)) ** (1 / 1.3)
    death_days *= np.median(censored_days / death_days)
    progression_days = death_days * rng.uniform(0.3, 1.0, n)
    is_dead, has_progressed = death_days <= censored_days, progression_days <= censored_days
    age, stage, grade = truth.factors["clinical"].T
    rng = _rng(config, "clinical")
    stages = np.array(["Stage I", "Stage II", "Stage III", "Stage IV"])[np.digitize(stage, (-0.5, 0.4, 1.2))]
    columns = {
        "case_id": truth.case_ids,
        "cancer_type": np.array(config.cancer_types)[truth.type_index].tolist(),
        "age_years": np.clip(62 + 11 * age, 20, 95).astype(int),
        "gender": rng.choice(["FEMALE", "MALE"], n).tolist(),
        "stage": np.where(rng.random(n) < 0.05, "[Not Available]", stages).tolist(),
        "grade": np.array(["G1", "G2", "G3", "G4"])[np.digitize(grade, (-0.9, 0.2, 1.1))].tolist(),
        "diagnosis_year": years,
        "vital_status": np.where(is_dead, "Dead", "Alive").tolist(),
        "OS": is_dead.astype(int).astype(str).tolist(),
        "OS.time": np.ceil(np.minimum(death_days, censored_days)).astype(int),
        "PFI": has_progressed.astype(int),
        "PFI.time": np.ceil(np.minimum(progression_days, censored_days)).astype(int),
    }
    return pl.DataFrame(columns)


def _frames(config: SyntheticConfig, truth: _Truth) -> dict[str, pl.DataFrame]:
    """Return the clean tables by file name, each with the rows of the cases that have the modality."""
    ids, factors = truth.case_ids, truth.factors
    diagnoses = [_diagnosis(config.cancer_types[kind]) for kind in truth.type_index]
    whole = {
        "rna": files.rna_frame(ids, factors["rna"], truth.type_index, config.num_genes, _rng(config, "rna")),
        "copy_number": files.copy_number_frame(ids, factors["copy_number"], _rng(config, "copy_number")),
        "mutation": files.mutation_frame(ids, factors["mutation"], config.num_genes, _rng(config, "mutation")),
        "report": files.report_frame(ids, factors["report"], diagnoses, _rng(config, "report")),
        "slide": files.slide_frame(ids, config.fraction_with_second_slide, _rng(config, "slide")),
    }
    clean = {"clinical.csv": _clinical_frame(config, truth)}
    for name, frame in whole.items():
        kept = [ids[i] for i in np.flatnonzero(truth.has[name])]
        clean[_FILES[name]] = frame.filter(pl.col("case_id").is_in(kept))
    return clean


def _write(folder: Path, config: SyntheticConfig) -> None:
    truth = _truth(config)
    frames = _frames(config, truth)
    dirt = plant(frames, _rng(config, "dirt")) if config.has_dirt else Dirt(frames, [])
    for name, frame in dirt.frames.items():
        files.write_table(folder / name, frame)
    _write_slides(folder / "slides", config, truth, dirt)
    about = {
        **_identity(config),
        "cancer_types": {code: _diagnosis(code) for code in config.cancer_types},
        "planted": dirt.planted,
        "rows": {name: len(frame) for name, frame in dirt.frames.items()},
    }
    (folder / MANIFEST).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_slides(folder: Path, config: SyntheticConfig, truth: _Truth, dirt: Dirt) -> None:
    slides, sigma = dirt.frames["slides.csv"], 0.6
    counts = _rng(config, "slide", 1).lognormal(np.log(config.mean_patches) - sigma**2 / 2, sigma, len(slides))
    # 200 to 20,000 patches at the default mean of 2,000; never fewer than the defects need
    counts = np.clip(counts, max(4, config.mean_patches / 10), config.mean_patches * 10).astype(int)
    num_sites = len(config.cancer_types) * _SITES_PER_TYPE
    bank = files.PatchBank(config.slide_dim, int(counts.max(initial=0)), num_sites, _rng(config, "slide", 2))
    position = {case_id: i for i, case_id in enumerate(truth.case_ids)}
    folder.mkdir()
    rows = tracked(slides.iter_rows(), "slides of the landing folder", len(slides))
    for k, (slide_id, case_id, _mpp, magnification, _stain) in enumerate(rows):
        rng, i = _rng(config, "slide", 3 + k), position[case_id]
        share = 1 / (1 + np.exp(2.4 - truth.factors["slide"][i] + rng.normal(0, 0.15)))
        features_PD, cells_P2 = bank.draw(int(counts[k]), float(share), int(truth.site_index[i]), rng)
        coords_P2, defect = cells_P2 * (256 * magnification // 20), dirt.spoiled_slides.get(slide_id)
        if defect == "nan_features":
            features_PD[::7, 0] = np.nan
        if defect == "coords_count_differs":
            coords_P2 = coords_P2[:-3]
        if defect != "slide_file_missing":
            files.write_slide(folder / f"{slide_id}.h5", features_PD, coords_P2, magnification)
