"""Row 25: Parquet files that unpack to far more than they are, and sources whose columns moved, changed name or went missing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from faults.children import answered
from faults.cohorts import COHORT, contents_of, small_contract, small_landing, visible
from faults.report import Found, Trial
from feature_store import sources
from feature_store.errors import MiceError, SourceFormatError
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort

MOST_MB = 1_024  # what refusing a bomb may take beyond a process that has the libraries loaded
MOST_S = 20.0
Edit = Callable[[pl.DataFrame], pl.DataFrame]


def bombs_and_drift(trial: Trial) -> Found:
    """Row 25."""
    found = Found({"bombs_refused": 0, "drifts_stopped": 0})
    _bombs(trial, found)
    _drifts(trial, found)
    return found


def _bombs(trial: Trial, found: Found) -> None:
    makers = {"text": _text_bomb, "rows": _rows_bomb, "list": _list_bomb, "zeros": _zeros_bomb}
    makers = dict(list(makers.items())[: trial.pick(1, 4)])
    peak_mb = 0.0
    for name, make in makers.items():
        path = trial.folder / f"{name}.parquet"
        make(path)
        answer = answered(_read, path)
        peak_mb = max(peak_mb, answer.took_mb)
        is_refused = answer.text.startswith("source") and answer.took_mb < MOST_MB and answer.seconds < MOST_S
        found.add("bombs_refused", int(is_refused))
        size = f"{path.stat().st_size:,} bytes"
        found.expect(
            is_refused, f"bomb {name} of {size}: {answer.text[:200]}, after {answer.seconds:.1f} s, {answer.took_mb:.0f} MB more"
        )
        path.unlink()
    found.counts |= {"bombs_refused": f"{found.counts['bombs_refused']} of {len(makers)}", "most_memory_mb": round(peak_mb)}


def _rows_bomb(path: Path) -> None:
    """A column of 300 million equal numbers, which run-length coding makes a few bytes each million."""
    batch = pa.table({"x": pa.repeat(pa.scalar(1, pa.int8()), 10_000_000)})
    with pq.ParquetWriter(path, batch.schema) as writer:
        for _ in range(30):
            writer.write_table(batch)


def _text_bomb(path: Path) -> None:
    """One text of a megabyte in every one of 20,000 rows: stored once."""
    indices = pa.repeat(pa.scalar(0, pa.int32()), 20_000)
    pq.write_table(pa.table({"x": pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**20]))}), path)


def _list_bomb(path: Path) -> None:
    """One row, whose list has 400 million elements."""
    values = pa.repeat(pa.scalar(1, pa.int8()), 400_000_000)
    pq.write_table(pa.table({"x": pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)}), path)


def _zeros_bomb(path: Path) -> None:
    """Texts of zeros, each another length: stored in full, compressed a thousandfold."""
    writer = None
    for number in range(50):
        table = pa.table({"x": ["0" * (100_000_000 + number)]})
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False, write_statistics=False)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _read(path: Path) -> str:
    try:
        return f"read {sources.read_table(sources.fingerprint(path.parent, path)).shape}"
    except SourceFormatError as error:
        return str(error)


def _drifts(trial: Trial, found: Found) -> None:
    """Change one source of a published cohort at a time: what moved changes nothing, what changed stops the publication."""
    landing, home = small_landing(trial.folder / "landing", num_cases=40), Home(trial.folder / "home")
    publish_cohort(Lake(home), stage(small_contract(), landing, home), COHORT)
    before = visible(home)
    drifts: dict[str, tuple[str, Edit]] = {
        "a renamed identifier": ("clinical.csv", lambda f: f.rename({"case_id": "patient_id"})),
        "a renamed outcome": ("clinical.csv", lambda f: f.rename({"OS.time": "OS_time"})),
        "a renamed variable": ("clinical.csv", lambda f: f.rename({"stage": "Stage"})),
        "a code nobody declared": ("clinical.csv", lambda f: f.with_columns(OS=pl.lit("2"))),
        "another unit of time": ("clinical.csv", lambda f: f.with_columns(pl.col("OS.time") + " days")),
        "identifiers of another form": ("clinical.csv", lambda f: f.with_columns(pl.col("case_id").str.replace_all("-", "_"))),
        "no gene at all": ("rna.csv.gz", lambda f: f.rename({c: c.replace("_rnaseq", "_fpkm") for c in f.columns})),
        "a renamed gene": ("rna.csv.gz", lambda f: f.rename({"TP53_rnaseq": "P53_rnaseq"})),
        "half of the genes": ("rna.csv.gz", lambda f: f.select(f.columns[: len(f.columns) // 2])),
        "two columns of one name": ("rna.csv.gz", lambda f: f.rename({"MYC_rnaseq": "TP53_RNASEQ"})),
    }
    drifts = dict(list(drifts.items())[:: trial.pick(3, 1)])
    for what, (name, edit) in drifts.items():
        answer = _published(trial.folder / "drifted", landing, home, name, edit)
        is_stopped = bool(answer) and visible(home) == before
        found.add("drifts_stopped", int(is_stopped))
        found.expect(is_stopped, f"{what}: published")
        if not answer:
            publish_cohort(Lake(home), stage(small_contract(), landing, home), COHORT)
    found.counts["drifts_stopped"] = f"{found.counts['drifts_stopped']} of {len(drifts)}"
    moved = _published(
        trial.folder / "drifted", landing, home, "rna.csv.gz", lambda f: f.select("case_id", *sorted(f.columns[1:], reverse=True))
    )
    found.expect(not moved, f"reordered genes: refused ({moved})")
    with Lake(home).reader() as connection:
        changed = [table for table, digest in contents_of(connection).items() if digest != before[table]]
    # the rows name their source's checksum, which is another; the values and the panel must not be
    found.expect(set(changed) <= {"rna", "sources"}, f"reordered genes changed {changed}")
    found.counts["reordered_genes_change"] = " and ".join(changed) or "nothing"


def _published(folder: Path, landing: Path, home: Home, name: str, edit: Edit) -> str:
    """Publish a copy of the landing with one table changed; return why it was refused, or an empty text."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(landing, folder)
    edited = edit(pl.read_csv(folder / name, infer_schema=False))
    edited.write_csv(folder / name, compression="gzip" if name.endswith(".gz") else "uncompressed")
    try:
        publish_cohort(Lake(home), stage(small_contract(), folder, home), COHORT)
    except MiceError as error:
        return str(error)
    return ""
