"""Vectors that come as one file per sample with a row per gene: STAR's counts, gene-level copy number, RPPA.

One file after the other is read; in memory is the matrix of all cases. All files of a source have the same genes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.contract.feature_sources import SampleFilesSource
from feature_store.errors import SourceFormatError
from feature_store.ingest.case_files import case_files
from feature_store.ingest.context import Ingest
from feature_store.ingest.feature_names import FeatureNames
from feature_store.ingest.measured import Measured
from feature_store.ingest.numbers import numeric
from feature_store.progress import tracked
from feature_store.sources import SourceFile, read_table, require_columns


@dataclass(frozen=True)
class _Panel:
    """The genes of the first file, which all others must have; `wanted` (g): where the panel's features are among them."""

    first: SourceFile
    genes: pl.Series
    features: list[str]
    wanted: NDArray[np.intp]
    names: FeatureNames | None
    mapping: pl.DataFrame | None

    def places(self, genes: pl.Series, file: SourceFile) -> NDArray[np.intp]:
        """Return where the panel's features are in another file. Raises SourceFormatError unless it has the same genes."""
        if genes.equals(self.genes):
            return self.wanted
        lacking, more = (sorted(map(str, set(one) - set(other)))[:3] for one, other in ((self.genes, genes), (genes, self.genes)))
        if lacking or more or len(genes) != len(self.genes):
            raise SourceFormatError(
                f"source {file.relative}: {len(genes)} genes, expected the {len(self.genes)} of {self.first.relative}; it lacks "
                f"{lacking}, and has {more} more, to name the first. Fetch the file again, or read files of another kind as a "
                "source of their own (where)."
            )
        place_of = {gene: place for place, gene in enumerate(genes)}
        return np.array([place_of[self.genes[int(place)]] for place in self.wanted], dtype=np.intp)


def read_sample_files(ingest: Ingest, spec: SampleFilesSource, table: str) -> Iterator[Measured]:
    """Yield the vectors of each table of files. Raises SourceFormatError for a file whose genes are not those of the first."""
    for listing, listed, files in case_files(ingest, spec, table):
        digests = pl.Series([file.sha256 for file in files], dtype=pl.String)
        numbered = listed.with_columns(source_sha256=digests).with_row_index("_number")
        rows = ingest.one_row_per(numbered, table, listing, ["source_sha256"])
        if rows.is_empty():
            continue
        kept = [files[number] for number in rows["_number"]]
        panel = _panel(ingest, spec, kept[0])
        values = np.empty((len(kept), len(panel.features)), np.float32)
        for row, file in enumerate(tracked(kept, f"{ingest.contract.name}: {table} of {spec.path}", len(kept))):
            frame = _genes(spec, file)
            measured = numeric(frame, [spec.value], ingest.contract.missing_values, file)[:, 0]
            values[row] = measured[panel.places(frame[spec.gene], file)]
        yield Measured(rows, panel.features, values, listing, panel.names, panel.mapping)


def _genes(spec: SampleFilesSource, file: SourceFile) -> pl.DataFrame:
    frame = read_table(file, spec.file)
    require_columns(frame, [spec.gene, spec.value], file)
    frame = frame.with_columns(pl.col(spec.gene).str.strip_chars())
    if spec.skip is None:
        return frame
    return frame.filter(~pl.col(spec.gene).str.contains(f"^(?:{spec.skip})$").fill_null(value=False))


def _panel(ingest: Ingest, spec: SampleFilesSource, file: SourceFile) -> _Panel:
    frame = _genes(spec, file)
    genes = frame[spec.gene]
    if not len(genes) or genes.null_count() or genes.is_duplicated().any():
        repeated = genes.filter(genes.is_duplicated()).unique(maintain_order=True)
        raise SourceFormatError(
            f"source {file.relative}: {len(genes)} rows, {genes.null_count()} without a gene, {len(repeated)} genes that come "
            f"several times, expected each gene once; first {repeated[:3].to_list()}. Name a column of identifiers as gene, or "
            "skip rows."
        )
    columns = {gene: gene for gene in sorted(genes)}
    names, mapping = None, None
    if spec.gene_names is not None:
        if spec.gene_names.path is None:
            names = FeatureNames.of_table(ingest, spec.gene_names, frame, file)
        else:
            names = FeatureNames.read(ingest, spec.gene_names)
        columns, mapping = names.apply(ingest, columns, file)
    place_of = {gene: place for place, gene in enumerate(genes)}
    wanted = np.array([place_of[gene] for gene in columns], dtype=np.intp)
    return _Panel(file, genes, list(columns.values()), wanted, names, mapping)
