"""`mice explain` as one call: from a case and a study to the page, and what is said of it in one line."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from feature_store.case_slides import cohorts_with, find_slide, slide_sources
from feature_store.contract import Contract
from feature_store.erase.tombstones import load_tombstones
from feature_store.errors import CaseMissingError, CaseUnusableError, LandingMissingError, PagePlaceError
from feature_store.explanation_pages import page_path
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.landing import landing_folder
from feature_store.report_embeddings import texts_of_case
from mice_model.code_version import code_version
from mice_model.data import StudyData, open_study
from mice_model.explanation.attribution import attribute
from mice_model.explanation.page import Findings, Subject, render, write_page
from mice_model.explanation.report_windows import read_windows
from mice_model.explanation.slides import FindSlide, see_slides, top_patches
from mice_model.explanation.standing import read_standing
from mice_model.explanation.trained import TrainedModel, find_trained, networks_of
from mice_model.protocol import Run
from mice_model.study import Study, cohorts_of


@dataclass(frozen=True)
class Explained:
    """The page that was written, and what is on it."""

    path: Path
    subject: Subject
    found: Findings


def explain_case(
    study: Study,
    home: Home,
    contracts: Mapping[str, Contract],
    case_id: str,
    *,
    landing: Path | None = None,
    data: Path | None = None,
    output: Path | None = None,
) -> Explained:
    """Explain a case's prediction by the study's trained networks, and write the page: to `output`, or to its place in the home.

    `contracts` maps cohort -> contract. `landing`: the folder of the case's cohort, where it is not that it was added with or
    `data`; slides are cut from it. Raises ModelMissingError, CaseMissingError, CaseUnusableError, PagePlaceError.
    """
    if output is not None and output.resolve().is_relative_to(home.root.resolve()):
        raise PagePlaceError(
            f"output {output}: in the home, expected a place outside of it, or none: an erasure knows pages by their own place."
        )
    cohorts = cohorts_of(study, contracts)
    model = find_trained(study, home, cohorts)
    with open_study(model.study, home, model.snapshot_id, cohorts) as opened:
        row = _row(opened, home, case_id)
        subject = _subject(opened, model, row)
        find = _finder(home, model.snapshot_id, contracts[subject.cohort], subject.cohort, landing, data)
        found = _findings(opened, model, row, home, find)
    path = output or page_path(home, model.version, case_id)
    page = render(subject, found)
    if load_tombstones(home).erased([case_id]):  # while this was looking at it
        raise PagePlaceError(f"case {case_id}: was erased, expected a case of the store. Nothing was written.")
    write_page(page, path)
    return Explained(path, subject, found)


def _row(data: StudyData, home: Home, case_id: str) -> int:
    """Return the case's row of the training set. Raises CaseMissingError or CaseUnusableError where it has none."""
    study, snapshot = data.study, data.training_set.snapshot_id
    rows = (data.training_set.cases["case_id"] == case_id).arg_true()
    if len(rows) and data.cancer_index[rows[0]] >= 0:
        return int(rows[0])
    known = cohorts_with(Lake(home), snapshot, case_id)
    if not known:
        raise CaseMissingError(
            f"case {case_id}: no row in snapshot {snapshot}, which the model of {study.name} was trained on, expected one. "
            "Check the identifier: SELECT case_id FROM cases."
        )
    cohorts = sorted(set(data.training_set.cases["cohort"]))
    raise CaseUnusableError(
        f"case {case_id}: in cohort {', '.join(known)}, expected one of {', '.join(cohorts[:5])} with endpoint {study.endpoint} "
        f"and a cancer type that study {study.name} does not leave out. See why: mice lineage; choose another case or study."
    )


def _subject(data: StudyData, model: TrainedModel, row: int) -> Subject:
    case, study = data.training_set.cases.row(row, named=True), model.study
    return Subject(
        case_id=case["case_id"],
        cohort=case["cohort"],
        cancer_type=case["cancer_type"],
        study=study.name,
        model_version=model.version,
        is_current=model.is_current,
        snapshot_id=model.snapshot_id,
        endpoint=study.endpoint,
        encoders=data.encoders,
        protocol=study.protocol,
        seeds=study.seeds,
        modalities=study.features.modalities,
        expert_ranks=study.network.overlapping_ranks,
        code_version=code_version(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _findings(data: StudyData, model: TrainedModel, row: int, home: Home, find: FindSlide) -> Findings:
    networks = networks_of(data, row)
    case, encoding = data.training_set.cases.row(row, named=True), model.study.features.report_encoding
    windows = None
    if encoding is not None:
        texts = texts_of_case(Lake(home), model.snapshot_id, case["cohort"], case["case_id"])
        windows = read_windows(texts, case["case_id"], encoding, home)
    attribution = attribute(Run(data, model.folder), row, networks, windows)
    slides = see_slides(attribution.slides, data.reader, home.embeddings)
    standing = read_standing(model.folder, case["case_id"], case["cancer_type"], networks.folds)
    return Findings(networks, attribution, standing, slides, *top_patches(slides, find))


def _finder(home: Home, snapshot_id: int, contract: Contract, cohort: str, landing: Path | None, data: Path | None) -> FindSlide:
    """Return what finds a slide's file by the checksum of what its bag was made of, or says why there is none."""
    sources = [source for source in slide_sources(Lake(home), snapshot_id, cohort) if source.contract == contract.name]

    def find(sha256: str, slide_id: str) -> Path | str:
        if not sources:
            return "its bag was read from a file of features, so there are no pixels to show."
        try:
            folder = landing or landing_folder(contract, home, data)
        except LandingMissingError:
            return "no landing folder with the slide's file was given. See --landing."
        return find_slide(folder, sources, sha256, slide_id) or "no file with its checksum is in the landing folder (any more)."

    return find
