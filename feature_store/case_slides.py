"""What the store says of a case for whoever explains its prediction: whether it is there, and where its slides' files are.

Belongs here: questions to one snapshot, and finding a file in a landing folder by its checksum. Opening a slide is slides/'s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feature_store.contract.slide_sources import SLIDE_ENDINGS
from feature_store.lake import Lake
from feature_store.slides.slide_file import files_of, slide_sha256
from feature_store.sources import is_below


@dataclass(frozen=True)
class SlideSource:
    """A file that a cohort was read from, as the table sources has it; of a de-identified cohort the path is masked."""

    contract: str
    path: str
    num_bytes: int
    sha256: str

    @property
    def is_slide(self) -> bool:
        """Say whether the file is a whole slide, by its ending."""
        return Path(self.path).suffix.lower() in SLIDE_ENDINGS


def cohorts_with(lake: Lake, snapshot_id: int, case_id: str) -> list[str]:
    """Return the cohorts that a snapshot has a case in; none for a case that it does not know."""
    with lake.reader(snapshot_id) as connection:
        rows = connection.execute("SELECT DISTINCT cohort FROM cases WHERE case_id = ? ORDER BY 1", [case_id]).fetchall()
    return [cohort for (cohort,) in rows]


def slide_sources(lake: Lake, snapshot_id: int, cohort: str) -> list[SlideSource]:
    """Return the whole slides that a cohort was read from."""
    with lake.reader(snapshot_id) as connection:
        query = "SELECT contract, path, num_bytes, source_sha256 FROM sources WHERE cohort = ? ORDER BY path"
        found = [SlideSource(*row) for row in connection.execute(query, [cohort]).fetchall()]
    return [source for source in found if source.is_slide]


def find_slide(landing: Path, sources: list[SlideSource], sha256: str, slide_id: str) -> Path | None:
    """Return the slide of a checksum below a landing folder, which its content must have; None if it is not there (any more)."""
    for path in _candidates(landing, sources, sha256, slide_id):
        if is_below(path, landing) and slide_sha256(path) == sha256:
            return path
    return None


def _candidates(landing: Path, sources: list[SlideSource], sha256: str, slide_id: str) -> Iterator[Path]:
    """Yield the files worth hashing: at the recorded path, then slides of several files, then any of the recorded size."""
    named = [source for source in sources if source.sha256 == sha256]
    yield from (landing / source.path for source in named)
    if not named:  # the checksum of a slide of several files is over all of them; hashing the likely one first spares the others
        likely = sorted(sources, key=lambda source: slide_id not in source.path)
        several = (landing / source.path for source in likely)
        yield from (path for path in several if is_below(path, landing) and files_of(path) != [path])
        return
    sizes = {source.num_bytes for source in named}
    for path in sorted(landing.rglob("*")):
        if path.suffix.lower() in SLIDE_ENDINGS and path.is_file() and path.stat().st_size in sizes:
            yield path
