"""A contract's splits: random stratified folds, folds of whole sites, or folds given by files. The case is the unit.

Nothing is fitted here. Random folds follow from the cases and the seed alone, not from the order of the rows.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store import sources, tables
from feature_store.contract.rules import Identifier
from feature_store.contract.splits import GivenSplit, RandomSplit, SitePreservedSplit
from feature_store.errors import ContractError, LeakageError
from feature_store.ingest.context import Ingest
from feature_store.people import People


def read_folds(ingest: Ingest, cases: pl.DataFrame, endpoints: pl.DataFrame, aliases: pl.DataFrame) -> pl.DataFrame:
    """Return the table `folds`: for each split and each of its cases, the fold in which the case is held out.

    Raises LeakageError if fold files hold a person out in two folds, ContractError if there are fewer sites than folds.
    """
    frames = []
    for split in ingest.contract.splits:
        if isinstance(split, GivenSplit):
            folds = _given(ingest, split, cases, aliases)
        else:
            outcome = endpoints.filter(pl.col("endpoint") == split.endpoint).select("case_id", "event_observed")
            known = cases.select("case_id", "cancer_type", "site").join(outcome, on="case_id")
            known = known.sort("cancer_type", "event_observed", "case_id")
            folds = _random(split, known) if isinstance(split, RandomSplit) else _site_preserved(split, known)
        frames.append(tables.FOLDS.conform(ingest.cases.with_cohort(folds, "case_id").with_columns(split=pl.lit(split.name))))
    return pl.concat(frames)


def _random(split: RandomSplit, known: pl.DataFrame) -> pl.DataFrame:
    """Deal the cases of each (cancer type, event) stratum to the folds in a seeded random order."""
    order = np.random.default_rng(split.seed).random(known.height)
    dealt = known.with_columns(_order=pl.Series(order)).sort("cancer_type", "event_observed", "_order")
    return dealt.with_row_index("_row").select("case_id", fold=pl.col("_row") % split.num_folds)


def _site_preserved(split: SitePreservedSplit, known: pl.DataFrame) -> pl.DataFrame:
    """Give whole sites, the largest first, to the fold that has the least of what the site brings.

    What it brings: its share of each (cancer type, event) stratum, so that a rare one counts like a common one, and of all cases.
    A case without a site is a site of its own; sites of equal size come in a seeded random order.
    """
    if known.is_empty():  # nobody has the endpoint: the audit says so
        return known.select("case_id", fold=pl.lit(0))
    num_sites = known["site"].drop_nulls().n_unique()
    if num_sites < split.num_folds:
        raise ContractError(
            f"split {split.name}: {num_sites} sites, expected {split.num_folds} or more, one for each fold at least. "
            "Lower num_folds, or correct cases.site."
        )
    site = _codes(known.select("site", lone=pl.when(pl.col("site").is_null()).then("case_id")))
    stratum = _codes(known.select("cancer_type", "event_observed"))
    counts = np.zeros((site.max() + 1, stratum.max() + 2))
    np.add.at(counts, (site, stratum), 1)
    counts[:, -1] = counts.sum(axis=1)
    shares = counts / counts.sum(axis=0)
    held, fold_of = np.zeros((split.num_folds, counts.shape[1])), np.zeros(len(counts), np.int64)
    for one in np.lexsort((np.random.default_rng(split.seed).random(len(counts)), -counts[:, -1])):
        fold_of[one] = np.argmin(held @ shares[one])
        held[fold_of[one]] += shares[one]
    return known.select("case_id", fold=pl.Series(fold_of[site]))


def _codes(rows: pl.DataFrame) -> NDArray[np.int64]:
    """Number the different rows from 0, in their order."""
    return rows.to_struct().rank("dense").to_numpy().astype(np.int64) - 1


def _given(ingest: Ingest, split: GivenSplit, cases: pl.DataFrame, aliases: pl.DataFrame) -> pl.DataFrame:
    """Read the held-out cases of each fold file."""
    frames, named = [], []
    types = cases.select(_case_id="case_id", found="cancer_type")
    for cancer_type in split.cancer_types:
        for fold in range(split.num_folds):
            for file in sources.find(ingest.landing, split.path.format(cancer_type=cancer_type, fold=fold)):
                raw = sources.read_table(file)
                sources.require_columns(raw, [split.held_out], file)
                ingest.files[file.relative] = file
                raw = raw.select(pl.col(split.held_out).drop_nulls())  # beside the cases trained on
                rule = Identifier(column=split.held_out)
                named.append(raw.select(name=ingest.normalised(rule), fold=pl.lit(fold)))
                frame = ingest.known(ingest.identify(raw, rule, "folds", file), "folds", file)
                frame, found = frame.join(types, on="_case_id", maintain_order="left"), pl.col("found")
                ingest.reject(frame.filter(found != cancer_type), "folds", file, f"case is not of {cancer_type}", found)
                frames.append(frame.filter(found == cancer_type).select(case_id="_case_id", fold=pl.lit(fold)))
    folds = pl.concat(frames).unique(maintain_order=True)
    repeated = folds.filter(pl.col("case_id").is_duplicated())["case_id"].unique().sort()
    if len(repeated):
        raise LeakageError(
            f"split {split.name}: {len(repeated)} cases are held out in several folds, expected one each; first "
            f"{repeated[:3].to_list()}. Correct the fold files."
        )
    _refuse_people_twice(split, pl.concat(named).unique(), People.linked(aliases))
    return folds


def _refuse_people_twice(split: GivenSplit, named: pl.DataFrame, people: People) -> None:
    """Raise LeakageError if names of one person are held out in different folds."""
    person = pl.col("name").replace_strict(people.person_of, default=None, return_dtype=pl.Int64)
    linked = named.with_columns(person=person).drop_nulls("person").sort("fold", "name")
    by_person = linked.group_by("person", maintain_order=True).agg("name", "fold")
    twice = by_person.filter(*(pl.col(column).list.n_unique() > 1 for column in ("name", "fold")))
    if len(twice):
        first = ", ".join(f"{name} in fold {fold}" for name, fold in zip(twice["name"][0], twice["fold"][0], strict=True))
        raise LeakageError(
            f"split {split.name}: {len(twice)} people are held out in several folds under several identifiers, expected one fold "
            f"each; first {first} (table case_aliases). Correct the fold files."
        )
