"""Which whole slides a contract has to embed, and what is embedded of them so far. Making it: mice_model/slide_embedding/."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from feature_store.contract import Contract
from feature_store.contract.slide_sources import SLIDE_ENDINGS, SlideFolderSource, SlideTableSource
from feature_store.deidentify import Deidentifier, hidden
from feature_store.erase.tombstones import Tombstones, load_tombstones
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
    """A slide to embed. `name` is what people are told: its identifier, or of a de-identified cohort a part of its checksum."""

    path: Path
    name: str
    sha256: str
    declared_mpp: float | None
    recipe: Recipe


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
    return hidden(deidentifier.messages if deidentifier else None, lambda: _listed(contract, landing, tombstones, specs))


def _listed(contract: Contract, landing: Path, tombstones: Tombstones, specs: list[WholeSlideSource]) -> list[WholeSlide]:
    ingest, found = Ingest(contract, landing, tombstones), {}
    read_cases(ingest)
    read_aliases(ingest)
    for spec in specs:
        for listing in list_table(ingest, spec) if isinstance(spec, SlideTableSource) else list_folder(ingest, spec):
            for row in listing.rows.iter_rows(named=True):
                path = landing / str(row["_path"])
                if not is_below(path, landing):
                    continue  # the ingest says so
                digest = slide_sha256(path)
                name = digest[:12] if contract.deidentify else str(row["slide_id"])
                slide = WholeSlide(path, name, digest, declared_mpp(spec, row), recipe_of(spec))
                found[digest, slide.declared_mpp, recipe_of(spec).folder(Path())] = slide
    return list(found.values())


def manifests(contract: Contract, files: Iterable[SourceFile], home: Home) -> list[Path]:
    """Return the manifests that there are of a landing folder's slides: with them a contract's content changes."""
    folders = [RecipeFolder(home.embeddings, recipe_of(spec)) for spec in sources_of_slides(contract)]
    slides = [file.path for file in files if folders and file.path.suffix.lower() in SLIDE_ENDINGS]
    found = {folder.manifest_file(slide_sha256(path)) for path in slides for folder in folders}
    return sorted(path for path in found if path.is_file())
