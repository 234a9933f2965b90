"""Which whole slides a contract has to embed, and what is embedded of them so far. Making it: mice_model/slide_embedding/."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from feature_store.contract import Contract
from feature_store.contract.slide_sources import SLIDE_ENDINGS, SlideFolderSource, SlideTableSource
from feature_store.deidentify import Deidentifier, hidden
from feature_store.erase.slide_marks import keep_marks
from feature_store.erase.tombstones import Tombstones, erasure_key, load_tombstones, mark
from feature_store.home import Home
from feature_store.ingest.aliases import read_aliases
from feature_store.ingest.cases import read_cases
from feature_store.ingest.context import Ingest
from feature_store.ingest.embedded_slides import WholeSlideSource, declared_mpp, recipe_of
from feature_store.ingest.slide_files import list_folder, list_table
from feature_store.slides.embeddings import Recipe, RecipeFolder
from feature_store.slides.slide_file import slide_sha256
from feature_store.sources import SourceFile, is_below


@dataclass(frozen=True)
class WholeSlide:
    """A slide to embed. `name` is what people are told: its identifier, or of a de-identified cohort a part of its checksum.

    `marks` say whose it is to who has the erasure key: the tombstones that all its case's identifiers in the store would have.
    """

    path: Path
    name: str
    sha256: str
    declared_mpp: float | None
    recipe: Recipe
    marks: frozenset[str] = frozenset()


def sources_of_slides(contract: Contract) -> list[WholeSlideSource]:
    """Return a contract's sources of whole slides."""
    return [s for s in contract.slides if isinstance(s, SlideTableSource | SlideFolderSource) and s.are_slides]


def whole_slides(contract: Contract, landing: Path, home: Home) -> list[WholeSlide]:
    """Return the slides to embed: those of known cases that were not erased, whose files are there."""
    specs = sources_of_slides(contract)
    if not specs:
        return []
    deidentifier = Deidentifier.of(contract, landing, home)
    tombstones = load_tombstones(home)
    tombstones = deidentifier.tombstones(tombstones) if deidentifier else tombstones
    key = erasure_key(home)

    def marked(identifier: str) -> str:
        return mark(key, deidentifier.pseudonyms.of("case", identifier) if deidentifier else identifier)

    messages = deidentifier.messages if deidentifier else None
    return hidden(messages, lambda: _listed(contract, landing, tombstones, specs, marked))


def mark_slides(slides: Iterable[WholeSlide], home: Home) -> None:
    """Keep whose the slides are, for erasure: before anything of them is kept. Raises StoreWriteError."""
    keep_marks(home, erasure_key(home), ((slide.sha256, of) for slide in slides for of in slide.marks))


def _listed(
    contract: Contract, landing: Path, tombstones: Tombstones, specs: list[WholeSlideSource], marked: Callable[[str], str]
) -> list[WholeSlide]:
    ingest = Ingest(contract, landing, tombstones)
    found: dict[tuple[str, float | None, Path], WholeSlide] = {}
    read_cases(ingest)
    also = read_aliases(ingest).group_by("case_id").agg("alias")
    aliases: dict[str, list[str]] = dict(also.iter_rows())
    for spec in specs:
        for listing in list_table(ingest, spec) if isinstance(spec, SlideTableSource) else list_folder(ingest, spec):
            for row in listing.rows.iter_rows(named=True):
                path = landing / str(row["_path"])
                if not is_below(path, landing):
                    continue  # the ingest says so
                digest = slide_sha256(path)
                name = digest[:12] if contract.deidentify else str(row["slide_id"])
                case_id = str(row["case_id"])
                marks = frozenset(map(marked, [case_id, *aliases.get(case_id, ())]))
                place = digest, declared_mpp(spec, row), recipe_of(spec).folder(Path())
                marks |= found[place].marks if place in found else marks  # two cases may claim one slide
                found[place] = WholeSlide(path, name, digest, declared_mpp(spec, row), recipe_of(spec), marks)
    return list(found.values())


def manifests(contract: Contract, files: Iterable[SourceFile], home: Home) -> list[Path]:
    """Return the manifests that there are of a landing folder's slides: with them a contract's content changes."""
    folders = [RecipeFolder(home.embeddings, recipe_of(spec)) for spec in sources_of_slides(contract)]
    slides = [file.path for file in files if folders and file.path.suffix.lower() in SLIDE_ENDINGS]
    found = {folder.manifest_file(slide_sha256(path)) for path in slides for folder in folders}
    return sorted(path for path in found if path.is_file())
