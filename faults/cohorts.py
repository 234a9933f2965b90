"""Small synthetic cohorts for the fault rows: landing, contract, staged versions, and what a store shows of them.

What belongs here: what several rows need to set up or to look at a store. Faults themselves are the families' business.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from feature_store.contract import Contract, load_contract
from feature_store.contract.rules import Value
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import COHORT_MESSAGE, Write, content_sha256, publish, publish_cohort
from feature_store.synthetic import SyntheticConfig, write_landing
from feature_store.tables import COHORT_TABLES

COHORT = "synthetic"
DIM = 32
Contents = dict[str, str]


def small_contract(cohort: str = COHORT, *, max_quarantined_fraction: float = 0.05) -> Contract:
    """Return the shipped contract of the synthetic cohort at another width of patch embeddings, for a cohort of any name."""
    shipped = load_contract(Path(__file__).parents[1] / "cohorts" / "synthetic.yaml")
    slides = shipped.slides[0]
    encoder = slides.encoder.model_copy(update={"name": f"synthetic-{DIM}", "dim": DIM})
    types = ("AMBER", "BIRCH", "CEDAR", "DUNE")
    name = Value(columns=("cancer_type",), map=dict[str, str | float | None].fromkeys(types, cohort))
    changes = {
        "cohorts": (cohort,),
        "cases": shipped.cases.model_copy(update={"cohort": name}),
        "slides": (slides.model_copy(update={"encoder": encoder}),),
        "max_quarantined_fraction": max_quarantined_fraction,
    }
    return shipped.model_copy(update=changes)


def small_landing(folder: Path, num_cases: int = 80, mean_patches: int = 40, seed: int = 1, num_genes: int = 80) -> Path:
    """Write a clean landing folder."""
    config = SyntheticConfig(
        num_cases=num_cases, mean_patches=mean_patches, slide_dim=DIM, num_genes=num_genes, has_dirt=False, seed=seed
    )
    return write_landing(folder, config)


def published_home(folder: Path, num_cases: int = 80, mean_patches: int = 40) -> tuple[Home, Path]:
    """Return (a home that holds one cohort, its landing folder)."""
    home, landing = Home(folder / "home"), small_landing(folder / "landing", num_cases, mean_patches)
    publish_cohort(Lake(home), stage(small_contract(), landing, home), COHORT)
    return home, landing


@dataclass(frozen=True)
class Versions:
    """Two staged contents of one cohort that differ in every table that has rows, and the hash of each table's rows."""

    staged: tuple[Staged, Staged]
    contents: tuple[Contents, Contents]
    empty: Contents

    def which(self, contents: Contents) -> int | None:
        """Return the version that a store shows in all its tables, or None."""
        return self.contents.index(contents) if contents in self.contents else None


def two_versions(folder: Path, num_cases: int = 80) -> Versions:
    """Stage two landings of one cohort, each in a home of its own; tables that the contract does not fill are empty in both."""
    staged = []
    for version in (0, 1):
        landing = small_landing(folder / f"landing-{version}", num_cases, seed=version, num_genes=80 + version)
        clinical = landing / "clinical.csv"
        text = clinical.read_text(encoding="utf-8")  # what was rejected is to differ as well
        clinical.write_text(text.replace("Stage III", f"Stage 3{version}", 1), encoding="utf-8")
        staged.append(stage(small_contract(max_quarantined_fraction=0.2), landing, Home(folder / f"staged-{version}")))
    old, new = (_hashes({t.name: each.table(t.name, [COHORT]) for t in COHORT_TABLES}) for each in staged)
    empty = _hashes({table.name: table.empty() for table in COHORT_TABLES})
    same = [name for name in old if old[name] == new[name] != empty[name]]
    if same:
        raise AssertionError(f"tables {same} are equal in both versions: a mix of the two could not be told")
    return Versions((staged[0], staged[1]), (old, new), empty)


def writes(staged: Staged) -> list[Write]:
    """Return what publishing the staged cohort writes."""
    return [Write(table, COHORT, staged.table(table.name, [COHORT])) for table in COHORT_TABLES]


def home_with(versions: Versions, folder: Path) -> Home:
    """Return a home that holds the first version, and the bags of both."""
    home = Home(folder)
    for staged in versions.staged:
        shutil.copytree(Home(staged.folder.parents[2]).bags, home.bags, dirs_exist_ok=True)
    publish(Lake(home), writes(versions.staged[0]), f"{COHORT_MESSAGE} {COHORT}")
    return home


def visible(home: Home, snapshot_id: int | None = None) -> Contents:
    """Return the hash of every table's rows, as a reader of the store sees them in one snapshot."""
    with Lake(home).reader(snapshot_id) as connection:
        return contents_of(connection)


def contents_of(connection: duckdb.DuckDBPyConnection) -> Contents:
    """Return the hash of every table's rows, as this connection sees them now."""
    return _hashes({t.name: pl.DataFrame(connection.execute(f'FROM "{t.name}"').to_arrow_table()) for t in COHORT_TABLES})


def _hashes(frames: dict[str, pl.DataFrame]) -> Contents:
    return {table.name: content_sha256(Write(table, COHORT, frames[table.name])) for table in COHORT_TABLES}
