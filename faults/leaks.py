"""Rows 12 and 13: cohorts in which a person would be on both sides of a split, and features from the future.

Each is built through the whole ingest, from landing files and a contract, and a build of the training set must be refused.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl

from faults.cohorts import small_contract, small_landing
from faults.report import Found, Trial
from feature_store.contract import Contract
from feature_store.contract.rules import Identifier
from feature_store.contract.sources import AliasSource, ClinicalSource
from feature_store.errors import LeakageError
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.leakage import refuse_held_out
from feature_store.publish import publish_cohort
from feature_store.tables import CLINICAL, COHORT_TABLES
from feature_store.training_set import TrainingSet, latest_snapshot, read_training_set

SPLIT = "synthetic-3fold"
Edit = Callable[[Path, Path], None]


def same_person_twice(trial: Trial) -> Found:
    """Row 12: two cohorts that share a person in one of several ways; without, the same build must go through."""
    ways: dict[str, tuple[int, Edit]] = {
        "the case under the same id in another cohort": (1, _nothing),
        "an alias": (2, lambda one, two: _aliases(two, _case(one))),
        "an alias of both that is nobody's case": (2, lambda one, two: _aliases(one, "P-7", two)),
        "an aliquot": (2, lambda one, two: _aliases(one, "SYN-AA-0001-01A-11R", two)),
        "a slide under its own name": (2, lambda one, two: _copy_slide(one, two, is_renamed=False)),
        "a slide under another name": (2, lambda one, two: _copy_slide(one, two, is_renamed=True)),
    }
    found, num_refused = Found(), 0
    control = _built(trial.folder / "control", 2, _nothing)
    found.expect(isinstance(control, TrainingSet), f"two cohorts that share nobody: refused ({control})")
    chosen = dict(list(ways.items())[:: trial.pick(3, 1)])
    for number, (way, (seed, edit)) in enumerate(chosen.items()):
        is_refused = isinstance(_built(trial.folder / f"way-{number}", seed, edit), LeakageError)
        num_refused += is_refused
        found.expect(is_refused, f"{way}: the training set was built")
    found.counts["refused"] = f"{num_refused} of {len(chosen)}"
    return found


def _built(folder: Path, seed: int, edit: Edit) -> TrainingSet | LeakageError:
    """Publish cohort `one`, and `two` from a landing of another seed, after `edit(one, two)`; build from both."""
    home = Home(folder / "home")
    landings = [small_landing(folder / name, num_cases=40, seed=of_seed) for name, of_seed in (("one", 1), ("two", seed))]
    if seed != 1:
        _renumber(landings[1])
    for landing in landings:
        (landing / "aliases.csv").write_text("case_id,alias\n", encoding="utf-8")
    edit(*landings)
    try:
        for name, landing in zip(("one", "two"), landings, strict=True):
            publish_cohort(Lake(home), stage(_contract(name), landing, home), name)
        return read_training_set(Lake(home), latest_snapshot(Lake(home)), ["one", "two"], "os", SPLIT)
    except LeakageError as error:
        return error


def _contract(cohort: str) -> Contract:
    alias = AliasSource(
        path="aliases.csv", case_id=Identifier(column="case_id"), alias=Identifier(column="alias"), source="other"
    )
    return small_contract(cohort).model_copy(update={"name": cohort, "aliases": (alias,)})


def _nothing(_one: Path, _two: Path) -> None:
    """Leave both landings as they are."""


def _case(landing: Path) -> str:
    """Return a case that has a slide."""
    return min(pl.read_csv(landing / "slides.csv", infer_schema=False)["case_id"])


def _renumber(landing: Path) -> None:
    """Give every case another number, so that two landings share no identifier."""
    for path in landing.glob("*.csv*"):
        renamed = pl.read_csv(path, infer_schema=False).with_columns(pl.all().str.replace_all(r"(SYN-[A-Z]{2}-)0", "${1}5"))
        renamed.write_csv(path, compression="gzip" if path.suffix == ".gz" else "uncompressed")
    for path in (landing / "slides").iterdir():
        path.rename(path.with_name(path.name.replace("-0", "-5", 1)))


def _aliases(landing: Path, alias: str, *others: Path) -> None:
    """Give one case of each landing the same alias."""
    for each in (landing, *others):
        (each / "aliases.csv").write_text(f"case_id,alias\n{_case(each)},{alias}\n", encoding="utf-8")


def _copy_slide(one: Path, two: Path, *, is_renamed: bool) -> None:
    """Give a case of the second landing a slide of the first: the file and, unless renamed, its name."""
    slides = pl.read_csv(two / "slides.csv", infer_schema=False)
    own, other = (min(pl.read_csv(landing / "slides.csv", infer_schema=False)["slide_id"]) for landing in (two, one))
    shutil.copy(one / "slides" / f"{other}.h5", two / "slides" / f"{own if is_renamed else other}.h5")
    if not is_renamed:
        slides = slides.with_columns(slide_id=pl.when(pl.col("slide_id") == own).then(pl.lit(other)).otherwise("slide_id"))
        slides.write_csv(two / "slides.csv")


def later_knowledge(trial: Trial) -> Found:
    """Row 13: every column of every table that is not a baseline one of `clinical`, as a feature; and held-out rows in a fit."""
    landing, home = small_landing(trial.folder / "landing", num_cases=40), Home(trial.folder / "home")
    contract = small_contract()
    publish_cohort(Lake(home), stage(contract, landing, home), contract.cohorts[0])
    snapshot_id = latest_snapshot(Lake(home))

    def build(features: list[str]) -> TrainingSet:
        return read_training_set(Lake(home), snapshot_id, contract.cohorts, "os", SPLIT, clinical_features=features)

    baseline = {c.name for c in CLINICAL.columns if (c.role, c.known_at) == ("baseline", "time zero")}
    late = sorted({column.name for table in COHORT_TABLES for column in table.columns} - baseline)
    found, data = Found(), build(sorted(baseline - {"race", "histology"}))
    features = [name for name in late if _raises(LeakageError, build, ["stage", name])]
    mapped = [name for name in late if _raises(ValueError, _mapping, contract, name)]
    for what, refused in (("columns_refused", features), ("mappings_refused", mapped)):
        found.expect(refused == late, f"{what}: not {sorted(set(late) - set(refused))}")
        found.counts[what] = f"{len(refused)} of {len(late)}"
    rows = data.cases.with_row_index("row").drop_nulls("fold")["row"].to_numpy()
    found.expect(_raises(LeakageError, refuse_held_out, data.cases, rows, 0), "rows held out in fold 0: taken into its fit")
    return found


def _mapping(contract: Contract, name: str) -> ClinicalSource:
    """Declare a column as a baseline variable in a contract."""
    rule = {"columns": ["OS.time"]}
    return ClinicalSource.model_validate(
        {"case_id": contract.clinical.case_id.model_dump(), "path": "clinical.csv", "columns": {name: rule}}
    )


def _raises(kind: type[Exception], action: Callable[..., object], *arguments: object) -> bool:
    try:
        action(*arguments)
    except kind:
        return True
    return False
