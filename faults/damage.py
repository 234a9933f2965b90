"""Rows 7 and 8: bytes that changed and files that end too early, in the store and at its door."""

import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from faults.cohorts import COHORT, DIM, published_home, small_contract, small_landing
from faults.report import Found, Trial, say
from feature_store import sources
from feature_store.bag_file import read_shard_index
from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.ingest.patch_file import read_patches
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.verify import verify
from feature_store.verify_bags import check_bags
from feature_store.verify_finding import Finding
from feature_store.verify_objects import check_objects

NUM_LANES = 2
WHOLE_EVERY = 10


def flipped_bits(trial: Trial) -> Found:
    """Row 7: each flip is looked for by the checks of its object, every tenth by all of `mice verify`, and undone."""
    num_flips = trial.pick(10, 1_000)
    whole, _ = published_home(trial.folder, num_cases=40)
    found = Found({"flips": 0, "found": 0})
    found.expect(not verify(whole).problems, "verify finds problems before anything is flipped")
    homes = [Home(shutil.copytree(whole.root, trial.folder / f"lane-{lane}")) for lane in range(NUM_LANES)]
    with ThreadPoolExecutor(NUM_LANES) as pool:
        runs = [pool.submit(_flip_in_turn, home, num_flips // NUM_LANES, lane) for lane, home in enumerate(homes)]
        for run in runs:
            part = run.result()
            found.problems += part.problems
            for name, value in part.counts.items():
                found.add(name, int(value))
    found.counts["bit_flips_found"] = int(found.counts["found"]) / max(1, int(found.counts["flips"]))
    return found


@dataclass(frozen=True)
class SlideBytes:
    """A slide's row group: from `first` to before `end`, and what pyarrow reads there as long as it is sound."""

    slide_id: str
    case_id: str
    first: int
    end: int
    rows: pa.Table


def _flip_in_turn(home: Home, num_flips: int, seed: int) -> Found:
    """Flip bits uniform over all bytes of all shards and table files."""
    rng, found = random.Random(seed), Found()
    objects = sorted([*home.bags.glob("*.parquet"), *home.tables.rglob("*.parquet")])
    sizes = [path.stat().st_size for path in objects]
    slides = {path: _slides(path) for path in objects if path.parent == home.bags}
    for turn in range(num_flips):
        path = rng.choices(objects, sizes)[0]
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        which = f"bit {bit} of byte {at:,} of {path.relative_to(home.root)}"
        is_whole = turn % WHOLE_EVERY == 0
        _flip(path, at, bit)
        problems = verify(home).problems if is_whole else _problems(home, path)
        hit = [slide for slide in slides.get(path, []) if slide.first <= at < slide.end]
        for slide in hit:
            is_named = any((problem.slide_id, problem.case_id) == (slide.slide_id, slide.case_id) for problem in problems)
            is_harmed = not is_named and not _reads_as_before(path, slides[path].index(slide), slide)
            found.add("slides_named", int(is_named))
            found.add("slides_not_harmed", int(not is_named and not is_harmed))
            found.expect(not is_harmed, f"{which}: {slide.slide_id} reads otherwise and no finding names it")
        _flip(path, at, bit)
        found.add("flips")
        found.add("found", int(any(path.name in str(problem) or problem.slide_id for problem in problems)))
        found.add("by_the_whole_verify", int(is_whole))
        found.expect(bool(problems), f"{which}: not found")
        if turn % 100 == 99:
            say(f"row 7, lane {seed}: {turn + 1} of {num_flips} flips")
    return found


def _problems(home: Home, path: Path) -> list[Finding]:
    """Return the problems that the checks of this kind of object find."""
    checks = [check_objects, check_bags] if path.parent == home.bags else [check_objects]
    return [
        finding
        for check in checks
        for finding in check(Lake(home), {}, is_quick=False, on_progress=lambda _what, _done, _total: None)
        if finding.is_problem
    ]


def _slides(shard: Path) -> list[SlideBytes]:
    footer, slides = pq.read_metadata(shard), []
    for group, record in enumerate(read_shard_index(shard)):
        columns = [footer.row_group(group).column(index) for index in range(footer.row_group(group).num_columns)]
        starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
        end = max(start + column.total_compressed_size for start, column in zip(starts, columns, strict=True))
        slides.append(SlideBytes(record.slide_id, record.case_id, min(starts), end, _rows(shard, group)))
    return slides


def _rows(shard: Path, group: int) -> pa.Table:
    with pq.ParquetFile(shard) as file:
        return file.read_row_group(group)


def _reads_as_before(shard: Path, group: int, slide: SlideBytes) -> bool:
    try:
        return bool(_rows(shard, group).equals(slide.rows))
    except (OSError, ValueError, pa.ArrowException):
        return False


def _flip(path: Path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


def truncated_files(trial: Trial) -> Found:
    """Row 8. Sources are read as the ingest reads them; a plain text has no end of its own, so its landing lists checksums."""
    num_cuts = trial.pick(5, 100)
    found = Found()
    landing = small_landing(trial.folder / "landing", num_cases=40)
    slide = min((landing / "slides").iterdir())
    parquet = landing / "reports.parquet"
    pl.read_csv(landing / "reports.csv", infer_schema=False).write_parquet(parquet)
    home, _ = published_home(trial.folder / "store", num_cases=40)
    shard = min(home.bags.glob("*.parquet"))
    readers: dict[str, tuple[Path, Callable[[Path], object]]] = {
        "h5": (slide, lambda path: read_patches(path, "cut", DIM)),
        "csv_gz": (landing / "rna.csv.gz", _read_source),
        "parquet": (parquet, _read_source),
        "bag_shard": (shard, lambda path: read_shard_index(path, verify=True)),
    }
    for kind, (path, read) in readers.items():
        _cut(found, kind, path, read, num_cuts)
    parquet.unlink()
    target = Home(trial.folder / "target")
    _cut(
        found, "csv_without_checksums", landing / "clinical.csv", lambda _: _publish(landing, target), num_cuts, is_required=False
    )
    (landing / sources.CHECKSUMS).write_text(
        "".join(f"{file.sha256}  {file.relative}\n" for file in sources.find(landing, "**/*")), encoding="utf-8"
    )
    _cut(found, "csv", landing / "clinical.csv", lambda _: _publish(landing, target), num_cuts)
    return found


def _cut(found: Found, kind: str, path: Path, read: Callable[[Path], object], num_cuts: int, *, is_required: bool = True) -> None:
    whole, rng = path.read_bytes(), random.Random(0)
    read(path)  # sound before it is cut
    for length in sorted(rng.sample(range(len(whole)), num_cuts)):
        path.write_bytes(whole[:length])
        try:
            read(path)
        except MiceError:
            found.add(f"{kind}_refused")
        else:
            found.expect(not is_required, f"{kind} cut to {length:,} of {len(whole):,} bytes: read without an error")
    path.write_bytes(whole)
    found.counts[f"{kind}_refused"] = f"{found.counts.get(f'{kind}_refused', 0)} of {num_cuts}"


def _read_source(path: Path) -> object:
    return sources.read_table(sources.fingerprint(path.parent, path))


def _publish(landing: Path, home: Home) -> None:
    publish_cohort(Lake(home), stage(small_contract(), landing, home), COHORT)
