"""Reading one whole contract into a staging folder, once per content: the write half of write-audit-publish.

The staging folder's name is the content hash of the contract, its sources and this package's code; it is written beside and
renamed, so a staged contract is complete or absent. Publishing it is publish.py's business.
"""

import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
from filelock import FileLock

from feature_store import sources, tables
from feature_store.bag_file import write_shards
from feature_store.contract import Contract
from feature_store.contract.sources import CaseFilesSource
from feature_store.contract.splits import GivenSplit
from feature_store.deidentify import Deidentifier, Messages, hidden
from feature_store.erase.tombstones import Tombstones, load_tombstones
from feature_store.errors import StoreWriteError
from feature_store.home import Home
from feature_store.ingest.aliases import read_aliases
from feature_store.ingest.case_files import listed_files
from feature_store.ingest.cases import read_cases, read_clinical, read_follow_up, read_samples
from feature_store.ingest.context import Ingest
from feature_store.ingest.endpoints import endpoint_notes, read_endpoints
from feature_store.ingest.folds import read_folds
from feature_store.ingest.modalities import modality_matrix
from feature_store.ingest.mutations import read_mutations
from feature_store.ingest.omics import read_vectors
from feature_store.ingest.reports import read_reports
from feature_store.ingest.slides import ShardWriter, read_slides
from feature_store.ingest.staged_tables import StagedTables
from feature_store.ingest.whole_slides import manifests
from feature_store.tables import Table

_THREADS = 2


@dataclass(frozen=True)
class Staged:
    """A staged contract: `folder` holds one Parquet file per table; `key` is its content hash.

    `code_version` is the hash of the ingest code that read it.
    """

    contract: Contract = field(compare=False)  # the key is over it too
    key: str
    folder: Path
    num_normalised: int
    code_version: str

    def table(self, name: str, scopes: list[str] | None = None) -> pl.DataFrame:
        """Read one staged table, of the given cohorts only if any are given."""
        return staged_table(self.folder, name, scopes)

    @property
    def wholly_rejected(self) -> tuple[str, ...]:
        """The tables of which no row that was read was kept: a source that spells its identifiers anew, for one."""
        filed = pl.scan_parquet(self.folder / "quarantine.parquet").filter(pl.col("effect") != "kept")
        rejected = filed.select(pl.col("table_name").unique()).collect()
        return tuple(
            name
            for name in sorted(rejected["table_name"])
            if pl.scan_parquet(self.folder / f"{name}.parquet").head(1).collect().is_empty()
        )

    @property
    def unassigned(self) -> str:
        """The scope of quarantined rows that belong to no cohort."""
        return f"{self.contract.name}:unassigned"


def staged_table(folder: Path, name: str, scopes: list[str] | None = None) -> pl.DataFrame:
    """Read one table of a staging folder, of the given cohorts only if any are given."""
    frame = pl.scan_parquet(folder / f"{name}.parquet")
    return (frame if scopes is None else frame.filter(pl.col("cohort").is_in(scopes))).collect()


def landing_files(contract: Contract, landing: Path) -> list[sources.SourceFile]:
    """Return every source file the contract names, fingerprinted. Raises LandingMissingError for what is not there.

    A contract that asks for de-identification gets the files by the names that may be recorded.
    """
    messages = Messages.of(contract, landing)
    files = hidden(messages, lambda: _landing_files(contract, landing))
    return files if messages is None else [replace(file, relative=messages.path(file.relative, file.sha256)) for file in files]


def _landing_files(contract: Contract, landing: Path) -> list[sources.SourceFile]:
    patterns = {spec.path for spec in contract.case_tables}
    patterns |= {pattern for spec in contract.slides for pattern in spec.globs}
    for split in contract.splits:
        if isinstance(split, GivenSplit):
            patterns |= {split.path.format(cancer_type=t, fold="*") for t in split.cancer_types}
    if contract.deidentify and contract.deidentify.names:
        patterns.add(contract.deidentify.names)
    named = [spec.gene_names for spec in (*contract.rna, *contract.copy_number, *contract.protein) if spec.gene_names is not None]
    patterns |= {names.path for names in named if names.path is not None}
    files = {file.relative: file for pattern in patterns for file in sources.find(landing, pattern)}
    for spec in contract.case_tables:
        if isinstance(spec, CaseFilesSource):
            files |= {file.relative: file for file in listed_files(landing, spec, contract.missing_values)}
    return [files[name] for name in sorted(files)]


def content_key(contract: Contract, files: list[sources.SourceFile], tombstones: Tombstones | None = None) -> str:
    """Return the content hash of a contract, its sources, the ingest code and who was erased: equal keys stage to equal rows."""
    digest = hashlib.sha256(contract.model_dump_json().encode())
    for file in files:
        digest.update(f"{file.relative}\0{file.sha256}\n".encode())
    digest.update(code_version().encode())
    digest.update(tombstones.digest.encode() if tombstones else b"")
    return digest.hexdigest()[:32]


def stage(contract: Contract, landing: Path, home: Home) -> Staged:
    """Stage a contract, or return what is staged already for the same content.

    A contract's cohorts are often run at the same time: the first process reads, the others wait for it. Erased cases are left
    out; raises ErasureError where the key that tells them is missing. Where the contract asks for de-identification, nothing that
    is written or said names a case as its sources do; raises DeidentifyError where the key for that is gone.
    """
    deidentifier = Deidentifier.of(contract, landing, home)
    messages = deidentifier.messages if deidentifier else None
    return hidden(messages, lambda: _stage(contract, landing, home, deidentifier))


def _stage(contract: Contract, landing: Path, home: Home, deidentifier: Deidentifier | None) -> Staged:
    files = landing_files(contract, landing)
    with _staging(home, contract.name):
        tombstones = load_tombstones(home)  # under the lock: an erasure that comes later waits for it
        tombstones = deidentifier.tombstones(tombstones) if deidentifier else tombstones
        embedded = [sources.fingerprint(home.embeddings, path) for path in manifests(contract, files, home)]
        key = content_key(contract, files + embedded, tombstones)
        folder = home.staging / contract.name / key
        if not _is_whole(folder, home.bags):
            shutil.rmtree(folder, ignore_errors=True)
            partial = folder.parent / f".partial-{uuid.uuid4().hex}"
            partial.mkdir()
            try:
                written = StagedTables(contract.name, partial, tombstones, deidentifier)
                write = deidentifier.write_shards if deidentifier else write_shards
                ingest = Ingest(contract, landing, tombstones, home.embeddings)
                _read(ingest, written, home.bags, write)
                written.close(ingest.files)
                _write_about(ingest, deidentifier, partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            # an older content of this contract, published or superseded, and what a killed process left
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Staged(contract, key, folder, about["num_normalised"], code_version())


@contextmanager
def _staging(home: Home, name: str) -> Iterator[None]:
    """Hold a contract's staging folder. Raises StoreWriteError where it cannot be written."""
    try:
        (home.staging / name).mkdir(parents=True, exist_ok=True)
        with FileLock(home.staging / f"{name}.lock"):
            yield
    except OSError as error:
        raise StoreWriteError(
            f"staging folder {home.staging}: {error}, expected a writable disk with space. Mend that and run again."
        ) from error


def _is_whole(folder: Path, bags: Path) -> bool:
    """Say whether a contract is staged and the shards that its rows name are still in the store."""
    if not folder.is_dir():
        return False
    shards = pl.scan_parquet(folder / "patch_bags.parquet").select(pl.col("shard").unique()).collect()
    return all((bags / shard).is_file() for shard in shards["shard"])


def _read(ingest: Ingest, written: StagedTables, bags: Path, write: ShardWriter) -> None:
    """Read all sources into `written`, and the slides' bags into the folder `bags` by `write`."""
    cases = read_cases(ingest)
    aliases = read_aliases(ingest)
    cases = cases.filter(pl.col("case_id").is_in(list(ingest.cases)))  # less those an alias gave away
    written.add(tables.CASES, cases)
    written.add(tables.CASE_ALIASES, aliases)
    written.add(tables.CLINICAL, read_clinical(ingest))
    written.add(tables.FOLLOW_UP, read_follow_up(ingest))
    endpoints = read_endpoints(ingest)
    written.add(tables.ENDPOINTS, endpoints)
    written.add(tables.ENDPOINT_NOTES, endpoint_notes(ingest, cases))
    written.add(tables.SAMPLES, read_samples(ingest))

    def vectors(table: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
        rows, panels, names = read_vectors(ingest, getattr(ingest.contract, table.name), table)
        written.add(table, rows, panels)
        return panels, names

    def slides() -> None:
        rows, patch_bags = read_slides(ingest, bags, write)
        written.add(tables.SLIDES, rows)
        written.add(tables.PATCH_BAGS, patch_bags)

    with ThreadPoolExecutor(_THREADS) as pool:  # polars lets other threads run
        of_vectors = [pool.submit(vectors, table) for table in (tables.RNA, tables.COPY_NUMBER, tables.PROTEIN)]
        others = [
            pool.submit(slides),
            pool.submit(lambda: written.add(tables.MUTATIONS, read_mutations(ingest))),
            pool.submit(lambda: written.add(tables.REPORTS, read_reports(ingest))),
            pool.submit(lambda: written.add(tables.FOLDS, read_folds(ingest, cases, endpoints, aliases))),
        ]
        _wait([*of_vectors, *others], pool, ingest)
        panels, names = zip(*(future.result() for future in of_vectors), strict=True)
    written.add(tables.GENE_PANELS, pl.concat(panels))
    written.add(tables.FEATURE_MAPPING, pl.concat(names))
    written.add(tables.QUARANTINE, ingest.quarantine.table())
    failures = ingest.quarantine.failures()
    written.add(tables.MODALITY_MATRIX, modality_matrix(cases, written.cases_with, failures, ingest.assessed))
    written.add(tables.SOURCES, _sources(ingest))


def _wait(futures: list[Future[Any]], pool: ThreadPoolExecutor, ingest: Ingest) -> None:
    """Wait for all to be done; at the first that fails the others stop where they are or never begin, and it is raised."""
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
    except BaseException:
        ingest.is_abandoned.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _write_about(ingest: Ingest, deidentifier: Deidentifier | None, folder: Path) -> None:
    about: dict[str, object] = {"contract": ingest.contract.name, "num_normalised": sum(ingest.respelled)}
    about |= {"deidentified": dict(deidentifier.counts)} if deidentifier else {}
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


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the hash of the modules that decide what a source becomes."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    folders = (package, package.parent, package.parent / "contract", package.parent / "deidentify")
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
