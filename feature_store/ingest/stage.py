"""Reading one whole contract into a staging folder, once per content: the write half of write-audit-publish.

The staging folder's name is the content hash of the contract, its sources and this package's code; it is written beside and
renamed, so a staged contract is complete or absent. Publishing it is publish.py's business.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl
from filelock import FileLock

from feature_store import sources, tables
from feature_store.contract import Contract, GivenSplit, PatchFolderSource, Source
from feature_store.home import Home
from feature_store.ingest.cases import read_cases, read_clinical, read_endpoints
from feature_store.ingest.context import Ingest
from feature_store.ingest.folds import read_folds
from feature_store.ingest.modalities import modality_matrix
from feature_store.ingest.omics import read_mutations, read_vectors
from feature_store.ingest.reports import read_reports
from feature_store.ingest.slides import Progress, read_slides
from feature_store.tables import COHORT_TABLES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Staged:
    """A staged contract: `folder` holds one Parquet file per table; `key` is its content hash."""

    contract: str
    key: str
    folder: Path
    num_normalised: int
    max_quarantined_fraction: float

    def table(self, name: str, scopes: list[str] | None = None) -> pl.DataFrame:
        """Read one staged table, of the given cohorts only if any are given."""
        frame = pl.scan_parquet(self.folder / f"{name}.parquet")
        return (frame if scopes is None else frame.filter(pl.col("cohort").is_in(scopes))).collect()

    @property
    def wholly_rejected(self) -> tuple[str, ...]:
        """The tables of which every row read was rejected: a source that spells its identifiers anew, for one."""
        rejected = pl.scan_parquet(self.folder / "quarantine.parquet").select(pl.col("table_name").unique()).collect()
        return tuple(
            name
            for name in sorted(rejected["table_name"])
            if pl.scan_parquet(self.folder / f"{name}.parquet").head(1).collect().is_empty()
        )

    @property
    def unassigned(self) -> str:
        """The scope of quarantined rows that belong to no cohort."""
        return f"{self.contract}:unassigned"


def landing_files(contract: Contract, landing: Path) -> list[sources.SourceFile]:
    """Return every source file the contract names, fingerprinted. Raises LandingMissingError for what is not there."""
    patterns = {spec.path for spec in _specs(contract)}
    patterns |= {spec.files.format(slide_id="*") for spec in contract.slides if isinstance(spec, PatchFolderSource)}
    if isinstance(contract.split, GivenSplit):
        patterns |= {contract.split.path.format(cancer_type=t, fold="*") for t in contract.split.cancer_types}
    files = {file.relative: file for pattern in patterns for file in sources.find(landing, pattern)}
    return [files[name] for name in sorted(files)]


def content_key(contract: Contract, files: list[sources.SourceFile]) -> str:
    """Return the content hash of a contract, its sources and the ingest code: equal keys stage to equal rows."""
    digest = hashlib.sha256(contract.model_dump_json().encode())
    for file in files:
        digest.update(f"{file.relative}\0{file.sha256}\n".encode())
    digest.update(_code_hash().encode())
    return digest.hexdigest()[:32]


def stage(contract: Contract, landing: Path, home: Home, on_progress: Progress | None = None) -> Staged:
    """Stage a contract, or return what is staged already for the same content.

    A contract's cohorts are often run at the same time: the first process reads, the others wait for it.
    """
    key = content_key(contract, landing_files(contract, landing))
    folder = home.staging / contract.name / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.staging / f"{contract.name}.lock"):
        if not _is_whole(folder, home.bags):
            shutil.rmtree(folder, ignore_errors=True)
            partial = folder.parent / f".partial-{uuid.uuid4().hex}"
            partial.mkdir()
            try:
                _write(_read(contract, landing, home, on_progress), partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            # an older content of this contract, published or superseded, and what a killed process left
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Staged(contract.name, key, folder, about["num_normalised"], contract.max_quarantined_fraction)


def _is_whole(folder: Path, bags: Path) -> bool:
    """Say whether a contract is staged and the shards that its rows name are still in the store."""
    if not folder.is_dir():
        return False
    shards = pl.scan_parquet(folder / "patch_bags.parquet").select(pl.col("shard").unique()).collect()
    return all((bags / shard).is_file() for shard in shards["shard"])


def _read(contract: Contract, landing: Path, home: Home, on_progress: Progress | None) -> tuple[dict[str, pl.DataFrame], Ingest]:
    ingest = Ingest(contract, landing)
    staged = {"cases": read_cases(ingest)}
    staged["clinical"] = _logged("clinical", read_clinical, ingest)
    staged["endpoints"] = _logged("endpoints", read_endpoints, ingest)
    staged["rna"], rna_panels = read_vectors(ingest, contract.rna, tables.RNA)
    staged["copy_number"], copy_panels = read_vectors(ingest, contract.copy_number, tables.COPY_NUMBER)
    staged["gene_panels"] = pl.concat([rna_panels, copy_panels])
    staged["mutations"] = _logged("mutations", read_mutations, ingest)
    staged["reports"] = _logged("reports", read_reports, ingest)
    staged["slides"], staged["patch_bags"] = read_slides(ingest, home.bags, on_progress)
    staged["folds"] = read_folds(ingest, staged["cases"], staged["endpoints"])
    staged["quarantine"] = ingest.quarantine()
    staged["modality_matrix"] = modality_matrix(staged, ingest.failures(), ingest.assessed)
    staged["sources"] = _sources(ingest)
    return staged, ingest


def _logged(what: str, step: Callable[[Ingest], pl.DataFrame], ingest: Ingest) -> pl.DataFrame:
    frame = step(ingest)
    logger.info("%s: %d rows of %s", ingest.contract.name, frame.height, what)
    return frame


def _write(read: tuple[dict[str, pl.DataFrame], Ingest], folder: Path) -> None:
    staged, ingest = read
    for table in COHORT_TABLES:
        frame = table.conform(staged[table.name])
        # by cohort first and in small row groups, so that reading one cohort skips the others
        order = ["cohort", *(name for name in table.key or frame.columns if name != "cohort")]
        frame.sort(order).write_parquet(folder / f"{table.name}.parquet", row_group_size=20_000)
    about = {"contract": ingest.contract.name, "num_normalised": ingest.num_normalised}
    (folder / "about.json").write_text(json.dumps(about), encoding="utf-8")


def _sources(ingest: Ingest) -> pl.DataFrame:
    rows = [
        {
            "cohort": cohort,
            "contract": ingest.contract.name,
            "path": path,
            "source_sha256": file.sha256,
            "num_bytes": file.num_bytes,
        }
        for cohort, paths in ingest.used_by.items()
        for path, file in ingest.files.items()
        if path in paths
    ]
    return pl.DataFrame(rows, schema=tables.SOURCES.schema)


def _specs(contract: Contract) -> list[Source]:
    return [
        contract.cases,
        contract.clinical,
        contract.endpoints,
        *contract.rna,
        *contract.copy_number,
        *contract.mutations,
        *contract.reports,
        *contract.slides,
    ]


@lru_cache(maxsize=1)
def _code_hash() -> str:
    """Hash of the modules that decide what a source becomes."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("*.py"), *package.parent.glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
