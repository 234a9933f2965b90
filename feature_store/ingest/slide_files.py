"""Slides with a file of patch features each, listed by a table or by the files' own names."""

import re
from collections.abc import Iterator, Mapping

import polars as pl

from feature_store import sources
from feature_store.bag_record import SlideBag
from feature_store.contract.rules import Identifier
from feature_store.contract.slide_sources import SlideArchiveSource, SlideFolderSource, SlideTableSource
from feature_store.errors import BagInputError
from feature_store.ingest.context import Ingest
from feature_store.ingest.embedded_slides import embedded_bag, made_by
from feature_store.ingest.patch_attributes import refuse_contradictions
from feature_store.ingest.patch_file import read_patches
from feature_store.ingest.slide_offer import CASE_COLUMN, Listing, positive
from feature_store.ingest.values import present
from feature_store.progress import tracked
from feature_store.sources import SourceFile, fingerprint, require_columns


def list_table(ingest: Ingest, spec: SlideTableSource) -> Iterator[Listing]:
    """Yield a listing per slide table; a slide whose file is missing or unsound keeps its row, without a bag."""
    optional = {"mpp": spec.mpp, "magnification": spec.magnification, "stain": spec.stain}
    for file, raw in ingest.read(spec):
        require_columns(raw, [spec.slide_id, *(column for column in optional.values() if column)], file)
        missing = ingest.contract.missing_values
        frame = ingest.known(ingest.identify(raw, spec.case_id, "slides", file), "slides", file)
        frame = ingest.with_identifier(frame, spec.slide_id, "slide_id", "slides", file)
        said = {name: present(column, missing) if column else pl.lit(None, pl.String) for name, column in optional.items()}
        frame = frame.with_columns(
            case_id="_case_id",
            source_sha256=pl.lit(file.sha256),
            mpp=positive(said["mpp"]),
            magnification=positive(said["magnification"]),
            stain=said["stain"],
        )
        frame = ingest.one_row_per(frame, "slides", file, ["case_id", *optional], key="slide_id")
        paths = [spec.files.format(slide_id=slide_id) for slide_id in frame["slide_id"]]
        yield _listing(ingest, spec, frame.with_columns(_path=pl.Series(paths, dtype=pl.String)), file)


def list_folder(ingest: Ingest, spec: SlideFolderSource) -> Iterator[Listing]:
    """Yield the one listing of a folder of files, whose names say which slide of which case they are."""
    found = {file.relative: file for file in sources.find(ingest.landing, spec.files)}
    folder = SourceFile(ingest.landing, spec.files, 0, "")  # no file of it: what rejections of names are filed under
    frame = named_slides(ingest, spec, found, folder)
    for path, cohort in frame.select("_name", "cohort").iter_rows():
        ingest.used_by[cohort].add(path)
    yield _listing(ingest, spec, frame.with_columns(_path="_name"), folder)


def named_slides(
    ingest: Ingest, spec: SlideFolderSource | SlideArchiveSource, named: Mapping[str, SourceFile], listed_by: SourceFile
) -> pl.DataFrame:
    """Return the slides that names tell, as rows of `slides` with `_name` beside; `named` is name -> its file.

    A name that the pattern does not match is rejected, and so are all that claim to be one slide (two magnifications of it).
    """
    ingest.files |= {file.relative: file for file in named.values()}
    rows = []
    for name, file in named.items():
        match = re.search(spec.name, name)
        groups = match.groupdict("") if match else {}
        slide_id = spec.slide_id.format(**groups) if match else None
        rows.append((name, groups.get("case_id"), slide_id, groups.get("stain") or None, file.sha256))
    schema = dict.fromkeys(("_name", CASE_COLUMN, "slide_id", "stain", "source_sha256"), pl.String())
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        mpp=pl.lit(None, pl.Float64), magnification=pl.lit(None, pl.Float64)
    )
    is_named = pl.col("slide_id").is_not_null()
    nameless = frame.filter(~is_named).with_columns(_case_id=pl.lit(None, pl.String), _found_id=pl.lit(None, pl.String))
    ingest.reject(nameless, "slides", listed_by, f"name does not match {spec.name}", pl.col("_name"))
    frame = ingest.identify(frame.filter(is_named), Identifier(column=CASE_COLUMN), "slides", listed_by)
    frame = ingest.known(frame, "slides", listed_by).with_columns(case_id="_case_id")
    return ingest.one_row_per(frame, "slides", listed_by, ["case_id", "_name"], key="slide_id")


def _listing(ingest: Ingest, spec: SlideTableSource | SlideFolderSource, frame: pl.DataFrame, file: SourceFile) -> Listing:
    listing: Listing

    def offered() -> Iterator[tuple[str, SlideBag]]:
        what = f"{ingest.contract.name}: slides of {file.relative}"
        for row in tracked(frame.iter_rows(named=True), what, frame.height):
            try:
                yield row["cohort"], _load(ingest, spec, row, listing)
            except BagInputError as error:
                one = frame.filter(pl.col("slide_id") == row["slide_id"])
                ingest.reject(one, "patch_bags", file, str(error), pl.col("slide_id"))

    listing = Listing(file, spec.encoder, frame, offered(), made_by=made_by(spec, ingest.embeddings) if spec.are_slides else None)
    return listing


def _load(ingest: Ingest, spec: SlideTableSource | SlideFolderSource, row: dict[str, object], listing: Listing) -> SlideBag:
    slide_id = str(row["slide_id"])
    # a slide's own header may say what the table does not
    for name in ("mpp", "magnification") if isinstance(spec, SlideTableSource) and not spec.are_slides else ():
        if getattr(spec, name) is not None and row[name] is None:
            raise BagInputError(f"slide {slide_id}: {name} missing or not positive, expected a number. Correct the slide table.")
    path = ingest.landing / str(row["_path"])
    if not sources.is_below(path, ingest.landing):
        what = "the slide" if spec.are_slides else "its patch features"
        raise BagInputError(f"slide {slide_id}: no file {path.name} in the landing folder, expected {what}. Fetch it.")
    source = fingerprint(ingest.landing, path)
    ingest.files[source.relative] = source
    ingest.used_by.setdefault(str(row["cohort"]), set()).add(source.relative)
    if spec.are_slides:
        return embedded_bag(path, spec, row, listing, ingest.embeddings)
    patches = read_patches(path, slide_id, spec.encoder.dim, spec.arrays)
    mpp, magnification = (number if isinstance(number := row[name], float) else None for name in ("mpp", "magnification"))
    try:
        refuse_contradictions(patches.attributes, spec.encoder, spec.patches, mpp, magnification)
    except BagInputError as error:
        raise BagInputError(f"slide {slide_id}: {error}") from error
    listing.said[slide_id] = patches.attributes
    return SlideBag(
        slide_id=slide_id,
        case_id=str(row["case_id"]),
        xy=patches.coords,
        embedding=patches.features,
        source_sha256=source.sha256,
        patch_size_px=patches.size_px or spec.encoder.patch_size_px,
        mpp=mpp or patches.attributes.level0_mpp,
        magnification=magnification or patches.attributes.level0_magnification,
    )
