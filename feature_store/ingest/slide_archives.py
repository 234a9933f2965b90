"""Archives (.npz) of arrays, one per slide: its vectors, without coordinates."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store import sources
from feature_store.bag_record import SlideBag
from feature_store.contract.slide_sources import SlideArchiveSource
from feature_store.errors import BagInputError, SourceFormatError
from feature_store.ingest.array_files import open_npz
from feature_store.ingest.context import Ingest
from feature_store.ingest.patch_arrays import Declared
from feature_store.ingest.patch_file import UNREADABLE, refuse_constant
from feature_store.ingest.slide_files import named_slides
from feature_store.ingest.slide_offer import Listing
from feature_store.progress import tracked
from feature_store.sources import SourceFile


def list_archives(ingest: Ingest, spec: SlideArchiveSource) -> Iterator[Listing]:
    """Yield a listing per archive, while it is open. Raises SourceFormatError for one that cannot be read."""
    for file in sources.find(ingest.landing, spec.files):
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(open_npz(file.path, None, ()))
            except (BagInputError, *UNREADABLE) as error:
                raise SourceFormatError(
                    f"source {file.relative}: unreadable ({error}), expected an archive of arrays. Fetch the file again."
                ) from error
            arrays = {f"{file.relative}/{name}": array for name, array in opened.arrays.items()}
            frame = named_slides(ingest, spec, dict.fromkeys(arrays, file), file)
            yield Listing(file, spec.encoder, frame, _bags(ingest, spec, frame, arrays, file))


def _bags(
    ingest: Ingest, spec: SlideArchiveSource, frame: pl.DataFrame, arrays: Mapping[str, Declared], file: SourceFile
) -> Iterator[tuple[str, SlideBag]]:
    for row in tracked(frame.iter_rows(named=True), f"{ingest.contract.name}: slides of {file.relative}", frame.height):
        slide_id = row["slide_id"]
        try:
            vectors = _vectors(arrays[row["_name"]], spec)
        except (BagInputError, *UNREADABLE) as error:
            one = frame.filter(pl.col("slide_id") == slide_id)
            ingest.reject(one, "patch_bags", file, f"slide {slide_id}: {error}", pl.col("slide_id"))
            continue
        origins = np.zeros((len(vectors), 2), np.int32)
        size = spec.encoder.patch_size_px
        yield row["cohort"], SlideBag(slide_id, row["case_id"], origins, vectors, file.sha256, size, None, None)


def _vectors(array: Declared, spec: SlideArchiveSource) -> NDArray[np.floating]:
    """Return (k, dim). Raises BagInputError where an array is no whole number of vectors."""
    values, dim = array.read(), spec.encoder.dim
    if spec.padding == "zeros" and values.ndim == 1:
        values = np.trim_zeros(values)
    if (
        values.dtype.kind != "f"
        or values.ndim not in {1, 2}
        or values.shape[-1] % dim
        or (values.ndim == 2 and len(values[0]) != dim)
    ):
        raise BagInputError(
            f"array {values.dtype} of shape {values.shape}, expected floats ({dim},) once or more. Check the encoder."
        )
    vectors = values.reshape(-1, dim)
    refuse_constant(vectors)
    return vectors
