"""Other identifiers of the same people: the table `case_aliases`, by which a case that comes twice is found."""

import polars as pl

from feature_store import tables
from feature_store.ingest.context import WAS_ERASED, Ingest
from feature_store.ingest.values import identifier
from feature_store.sources import require_columns


def read_aliases(ingest: Ingest) -> pl.DataFrame:
    """Return the table `case_aliases`; a row without an alias, or with the case's own identifier, is left out."""
    frames = [tables.CASE_ALIASES.empty()]
    for spec in ingest.contract.aliases:
        for file, raw in ingest.read(spec):
            require_columns(raw, [spec.alias.column], file)
            frame = ingest.rows(raw, spec, "case_aliases", file)
            found = identifier(spec.alias.column)
            is_there = found.is_not_null() & ~found.is_in([spelling.strip() for spelling in ingest.contract.missing_values])
            frame = frame.filter(is_there).with_columns(alias=pl.lit(spec.prefix) + ingest.normalised(spec.alias))
            reason = f"alias does not match {spec.alias.extract}"
            ingest.reject(frame.filter(pl.col("alias").is_null()), "case_aliases", file, reason, found)
            returned = frame.filter(pl.col("alias").is_in(ingest.tombstones.erased(frame["alias"])))
            ingest.erase(returned["_case_id"])
            nameless = returned.with_columns(_case_id=pl.lit(None, pl.String), _found_id=pl.lit(None, pl.String))
            ingest.reject(nameless, "case_aliases", file, WAS_ERASED)
            frame = frame.filter(pl.col("alias") != pl.col("_case_id"), ~pl.col("_case_id").is_in(ingest.also_erased))
            declared = frame.with_columns(case_id="_case_id", source=pl.lit(spec.source), source_sha256=pl.lit(file.sha256))
            frames.append(tables.CASE_ALIASES.conform(declared))
    return pl.concat(frames).unique(tables.CASE_ALIASES.key, keep="first", maintain_order=True)
