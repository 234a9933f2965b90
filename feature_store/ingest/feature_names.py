"""Names of features: the source's identifiers (Ensembl ids, former symbols) to symbols, by a table the contract names.

What belongs here: the mapping and what it loses. A feature gets a name of its own or is left out of the panel; each is recorded.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass

import polars as pl

from feature_store import sources, tables
from feature_store.contract.rules import GeneNames
from feature_store.errors import ContractError
from feature_store.ingest.context import Ingest
from feature_store.ingest.values import identifier
from feature_store.sources import SourceFile

logger = logging.getLogger(__name__)

_VERSION = re.compile(r"\.\d+$")  # ENSG00000141510.18; of the ids on the Y chromosome's copies (.18_PAR_Y) none is cut


@dataclass(frozen=True)
class FeatureNames:
    """A table of names as read: identifier -> the names it has, and the names themselves, which map to themselves."""

    file: SourceFile
    names_of: dict[str, set[str]]
    names: frozenset[str]
    strip_version: bool

    @classmethod
    def read(cls, ingest: Ingest, rule: GeneNames) -> "FeatureNames":
        """Read the table. Raises LandingMissingError, ColumnMissingError, ContractError where the path names several files."""
        found = sources.find(ingest.landing, rule.path or "")
        if len(found) > 1:
            raise ContractError(
                f"gene_names.path {rule.path!r}: {len(found)} files, expected one; first {[f.relative for f in found[:3]]}. "
                "Name one table."
            )
        file = found[0]
        ingest.files[file.relative] = file
        return cls.of_table(ingest, rule, sources.read_table(file), file)

    @classmethod
    def of_table(cls, ingest: Ingest, rule: GeneNames, frame: pl.DataFrame, file: SourceFile) -> "FeatureNames":
        """Take the names out of a table that was read. Raises ColumnMissingError."""
        sources.require_columns(frame, [rule.from_column, rule.to_column], file)
        pairs = frame.select(found=identifier(rule.from_column), name=identifier(rule.to_column)).drop_nulls().unique()
        names_of: dict[str, set[str]] = {}
        for feature, name in pairs.filter(~pl.col("name").is_in(ingest.contract.missing_values)).iter_rows():
            names_of.setdefault(_VERSION.sub("", feature) if rule.strip_version else feature, set()).add(name)
        return cls(file, names_of, frozenset(name for several in names_of.values() for name in several), rule.strip_version)

    def mapped(self, features: list[str]) -> pl.DataFrame:
        """Return feature_found, feature and state of each feature, as in the table feature_mapping."""
        candidates = {feature: self._candidates(feature) for feature in features}
        num_taking = Counter(name for names in candidates.values() if len(names) == 1 for name in names)
        rows: list[tuple[str, str | None, str]] = []
        for feature, names in candidates.items():
            if len(names) == 1:
                (name,) = names
                rows.append((feature, name, "mapped" if num_taking[name] == 1 else "collides"))
            else:
                rows.append((feature, None, "ambiguous" if names else "unmapped"))
        return pl.DataFrame(rows, schema=["feature_found", "feature", "state"], orient="row", schema_overrides=_TEXTS)

    def apply(self, ingest: Ingest, columns: dict[str, str], of: SourceFile) -> tuple[dict[str, str], pl.DataFrame]:
        """Return (column -> name of the features that have one of their own, sorted by name; what became of all of them).

        Raises ContractError if none has.
        """
        mapping = self.mapped(list(columns.values()))
        counts = Counter(mapping["state"])
        kept = dict(mapping.filter(pl.col("state") == "mapped").select("feature_found", "feature").rows())
        if not kept:
            raise ContractError(
                f"source {of.relative}: none of {len(columns)} features has a name of its own in {self.file.relative}, expected "
                f"most; the first features are {list(columns.values())[:5]}. Check gene_names' columns, and strip_version."
            )
        logger.info(
            "%s: %d of %d features of %s have a name in %s; left out: %d unmapped, %d ambiguous, %d collide",
            ingest.contract.name, len(kept), len(columns), of.relative, self.file.relative,
            counts["unmapped"], counts["ambiguous"], counts["collides"],
        )  # fmt: skip
        named = {column: kept[feature] for column, feature in columns.items() if feature in kept}
        return dict(sorted(named.items(), key=lambda item: item[1])), mapping

    def rows(self, mapping: pl.DataFrame, cohorts: pl.Series, modality: str, panel_id: str) -> pl.DataFrame:
        """Return the rows of feature_mapping for the cohorts that use the panel."""
        found = mapping.with_columns(modality=pl.lit(modality), panel_id=pl.lit(panel_id), source_sha256=pl.lit(self.file.sha256))
        return tables.FEATURE_MAPPING.conform(found.join(cohorts.to_frame("cohort"), how="cross"))

    def _candidates(self, feature: str) -> set[str]:
        found = _VERSION.sub("", feature) if self.strip_version else feature
        own = {found} if found in self.names else set()  # a symbol in use, which may be a former one of another gene too
        return self.names_of.get(found, set()) | own


_TEXTS = {"feature_found": pl.String, "feature": pl.String, "state": pl.String}
