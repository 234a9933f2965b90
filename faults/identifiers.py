"""Row 30: identifiers planted wherever a source can hold them, and looked for in all that an ingest leaves which de-identifies.

Two parts: texts alone, by the hundred; and a landing folder with identifiers in reports, cells, h5 attributes, names of files and
offending values, which is staged, published, logged and made to fail.
"""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from faults.cohorts import COHORT, small_contract, small_landing
from faults.planted_reports import FORMS, HELD_OUT, PEOPLE, PlantedReport, planted_report
from faults.report import Found, Trial
from faults.scan import Traces, hits
from feature_store.contract import Contract
from feature_store.contract.deidentify import Deidentify
from feature_store.contract.rules import Identifier, Value
from feature_store.contract.sources import AliasSource
from feature_store.deidentify.texts import scrubbed
from feature_store.erase import erase_case
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.ingest.stage import landing_files, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort

LEAST_FOUND = 0.99
NAMES = ("Okafor", "Baskerville", "Thibodeaux")


def planted_identifiers(trial: Trial) -> Found:
    """Row 30."""
    found = Found()
    _texts(trial, found)
    _ingested(trial, found)
    return found


def _texts(trial: Trial, found: Found) -> None:
    num_reports = trial.pick(60, 600)
    texts = _trial(found, "", num_reports, FORMS)
    start = time.perf_counter()
    scrubbed(texts)
    found.counts["million_characters_per_s"] = round(texts.str.len_chars().sum() / (time.perf_counter() - start) / 1e6, 1)
    _trial(found, "ocr_", num_reports, FORMS, is_ocr=True)
    _trial(found, "unseen_forms_", num_reports, HELD_OUT, is_promised=False)
    _trial(found, "unseen_forms_names_listed_", num_reports, HELD_OUT, people=PEOPLE)


def _trial(
    found: Found,
    name: str,
    num_reports: int,
    forms: list[str],
    *,
    is_ocr: bool = False,
    is_promised: bool = True,
    people: tuple[str, ...] = (),
) -> pl.Series:
    """Scrub reports and count what is left of what was planted; return the texts.

    Not `is_promised`: what is found of names in phrases that no rule knows is told, and may be anything.
    """
    rng = random.Random(30)
    reports = [planted_report(rng, forms, is_ocr=is_ocr) for _ in range(num_reports)]
    texts = pl.Series("text", [report.text for report in reports])
    clean, _ = scrubbed(texts, people=people)
    planted = [kind for report in reports for kind, _ in report.planted]
    missed = [left for report, text in zip(reports, clean, strict=True) for left in _left(report, text)]
    changed = sum(report.findings not in text for report, text in zip(reports, clean, strict=True))
    names, others = (_share(planted, [kind for kind, _ in missed], is_name=is_name) for is_name in (True, False))
    found.counts |= {f"{name}planted": len(planted), f"{name}names_found": f"{names:.1%}", f"{name}others_found": f"{others:.1%}"}
    found.expect(not changed, f"{name}findings that identify nobody were changed in {changed} reports")
    found.expect(others >= LEAST_FOUND, f"{name}{others:.2%} of numbers, dates, places found; missed {missed[:3]}")
    found.expect(names >= LEAST_FOUND or not is_promised, f"{name}{names:.2%} of names found; missed {missed[:3]}")
    return texts


def _share(planted: list[str], missed: list[str], *, is_name: bool) -> float:
    num_planted, num_missed = (
        sum(("first" in kind or "last" in kind) == is_name for kind in kinds) for kinds in (planted, missed)
    )
    return 1 - num_missed / num_planted


def _left(report: PlantedReport, text: str) -> list[tuple[str, str]]:
    without_findings = text.replace(report.findings, "")
    return [(kind, value) for kind, value in report.planted if value in without_findings]


def _ingested(trial: Trial, found: Found) -> None:
    landing, home = small_landing(trial.folder / "landing", num_cases=trial.pick(40, 300)), Home(trial.folder / "home")
    traces = Traces(tuple(sorted(_planted(landing))), ())
    contract = deidentified_contract()
    with _lines() as said:
        staged = stage(contract, landing, home)
        publish_cohort(Lake(home), staged, COHORT)
        bags = staged.table("patch_bags")
        case_id = min(bags["case_id"])
        errors = list(_errors(trial.folder / "errors", landing, contract))
        erase_case(home, case_id)
        publish_cohort(Lake(home), stage(contract, landing, home), COHORT)
    (trial.folder / "said").mkdir()
    shown = [file.relative for file in landing_files(contract, landing)]  # what Dagster shows of a landing folder
    (trial.folder / "said" / "lines.txt").write_text("\n".join([*said, *errors, *shown]), encoding="utf-8")
    leaks = [*hits(home.root, traces), *hits(trial.folder / "said", traces)]
    found.counts |= {"identifiers_in_the_landing": len(traces.texts), "leaks": len(leaks), "log_lines": len(said)}
    found.counts["bags"] = bags.height
    found.expect(not leaks, f"found in {leaks[:4]}")
    found.expect(bags.height > 0, "no bag was written: nothing was looked into")
    found.expect(len(errors) == len(_SPOILED), f"{len(errors)} of {len(_SPOILED)} spoiled landings were refused")
    found.expect(bool(hits(landing, traces)), "the landing folder holds none of it: nothing was looked for")
    found.expect(not hits(home.root, Traces((case_id,), ())), "an erased pseudonym came back with the next ingest")


def deidentified_contract(**rules: object) -> Contract:
    """Return the small cohort's contract with aliases, a free text and de-identification."""
    shipped = small_contract(max_quarantined_fraction=0.5)
    alias = AliasSource(path="aliases.csv", case_id=_id("case_id"), alias=_id("alias"), source="register", prefix="REG-")
    clinical = shipped.clinical.model_copy(update={"columns": shipped.clinical.columns | {"histology": Value(columns=("note",))}})
    changes = {"aliases": (alias,), "clinical": clinical, "deidentify": Deidentify.model_validate(rules)}
    return shipped.model_copy(update=changes)


def _id(column: str) -> Identifier:
    return Identifier(column=column)


def _planted(landing: Path) -> Iterator[str]:
    """Plant identifiers all over a landing folder, and yield each and those that were there."""
    rng = random.Random(7)
    clinical = pl.read_csv(landing / "clinical.csv", infer_schema=False)
    cases = clinical["case_id"].to_list()
    notes = [f"Ductal carcinoma, see Dr. {rng.choice(NAMES)}, MRN 77{n:05d}, {cases[n]}" for n in range(len(cases))]
    stages = ["Dr. Baskerville 312-555-0188", *clinical["stage"].to_list()[1:]]
    clinical = clinical.with_columns(note=pl.Series(notes), stage=pl.Series(stages), patient_name=pl.lit("Mei Thibodeaux"))
    nobody = clinical.head(2).with_columns(case_id=pl.Series(["SYN-AA-00017X OKAFOR", "Thibodeaux, Mei"]))
    pl.concat([clinical, nobody]).write_csv(landing / "clinical.csv")
    yield from (*cases, *NAMES, "SYN-AA-00017X", "312-555-0188", *(f"77{n:05d}" for n in range(len(cases))))
    aliases = [f"{n:06d}/{n % 7}" for n in range(len(cases))]
    pl.DataFrame({"case_id": cases, "alias": aliases}).write_csv(landing / "aliases.csv")
    yield from (f"REG-{alias}" for alias in aliases)
    yield from _planted_reports(landing, rng)
    yield from _planted_slides(landing)


def _planted_reports(landing: Path, rng: random.Random) -> Iterator[str]:
    reports = pl.read_csv(landing / "reports.csv", infer_schema=False)
    planted = [planted_report(rng, FORMS) for _ in range(reports.height)]
    texts = [
        f"{report.text}Case {case_id}, slide {case_id}-01Z-00"
        for report, case_id in zip(planted, reports["case_id"], strict=True)
    ]
    reports.with_columns(text=pl.Series(texts)).write_csv(landing / "reports.csv")
    yield from reports["report_id"]
    yield from {value for report in planted for kind, value in report.planted if kind not in {"age", "pager"} and len(value) > 4}


def _planted_slides(landing: Path) -> Iterator[str]:
    slides = pl.read_csv(landing / "slides.csv", infer_schema=False)
    named = [f"S03-{n:05d}_{NAMES[n % len(NAMES)].upper()}" for n in range(slides.height)]
    for n, (old, new) in enumerate(zip(slides["slide_id"], named, strict=True)):
        path = (landing / "slides" / f"{old}.h5").rename(landing / "slides" / f"{new}.h5")
        if n % 9 == 0:
            path.write_bytes(path.read_bytes()[:-100])
        elif n % 9 == 1:
            path.unlink()
        else:
            with h5py.File(path, "a") as file:
                file.attrs["patient"] = f"Okafor {n}"
                file["label"] = np.frombuffer(b"label image of Thibodeaux", np.uint8)  # where a slide's label may be kept
    slides.with_columns(slide_id=pl.Series(named)).write_csv(landing / "slides.csv")
    yield from (*named, *slides["slide_id"], "label image")


# what is spoiled, by file: each makes the ingest stop with an error that would quote it
_SPOILED = {
    "rna.csv.gz": lambda frame: frame.with_columns(pl.lit("Dr. Okafor SYN-AA-0001").alias(frame.columns[1])),
    "clinical.csv": lambda frame: frame.rename({"OS.time": "Thibodeaux, Mei"}),
    "slides.csv": lambda frame: frame.rename({"mpp": "S03-00001_OKAFOR"}),
}


def _errors(folder: Path, landing: Path, contract: Contract) -> Iterator[str]:
    """Yield what is said of landings that stop the ingest; the last is one whose list of checksums does not hold."""
    for name, spoil in _SPOILED.items():
        copy = folder / name
        copy.mkdir(parents=True)
        for path in landing.iterdir():
            (copy / path.name).symlink_to(path.resolve(), target_is_directory=path.is_dir())
        (copy / name).unlink()
        spoil(pl.read_csv(landing / name, infer_schema=False)).write_csv(copy / name.removesuffix(".gz"))
        if name.endswith(".gz"):
            (copy / name.removesuffix(".gz")).unlink()
            spoil(pl.read_csv(landing / name, infer_schema=False)).write_csv(copy / name, compression="gzip")
        try:
            stage(contract, copy, Home(folder / f"{name}-home"))
        except MiceError as error:
            yield f"{type(error).__name__}: {error}; {error.__cause__}; {error.__context__}"


@contextmanager
def _lines() -> Iterator[list[str]]:
    """Collect all log lines."""
    said: list[str] = []

    class _Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, logger = _Collect(), logging.getLogger()
    level = logging.getLogger("feature_store").level
    logger.addHandler(handler)
    logging.getLogger("feature_store").setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logging.getLogger("feature_store").setLevel(level)
