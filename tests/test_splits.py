"""Splits: the case is the unit, in folds given by files, at random, and of whole sites."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table
from ingesting import changed, of_case, reasons

from feature_store.contract import Contract
from feature_store.contract.rules import Identifier
from feature_store.contract.sources import AliasSource
from feature_store.contract.splits import GivenSplit, SitePreservedSplit
from feature_store.errors import ContractError, LeakageError
from feature_store.ingest.context import Ingest
from feature_store.ingest.folds import read_folds
from feature_store.ingest.stage import Staged
from feature_store.synthetic_files import write_table
from feature_store.tables import CASE_ALIASES

CASE_ID = Identifier(column="case_id")


def test_a_case_held_out_in_two_folds_is_leakage(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing, split = given_folds(corrupt)
    folds = bare(landing, splits=(split,)).table("folds")
    assert folds.height == read_table(landing / "clinical.csv").filter(pl.col("cancer_type").is_in(["AMBER", "DUNE"])).height
    assert folds["case_id"].is_unique().all()
    twice = read_table(landing / "splits" / "amber_0.csv")["val"][0]
    other = landing / "splits" / "dune_1.csv"
    write_table(other, pl.concat([read_table(other), pl.DataFrame({"train": [""], "val": [twice]})]))
    staged = bare(landing, splits=(split,))  # of another cancer type: not this file's to hold out
    assert reasons(staged, "folds", twice) == ["case is not of dune"]
    other = landing / "splits" / "amber_1.csv"
    write_table(other, pl.concat([read_table(other), pl.DataFrame({"train": [""], "val": [twice]})]))
    with pytest.raises(LeakageError, match=rf"1 cases are held out in several folds.*{twice}"):
        bare(landing, splits=(split,))


def test_given_folds_are_identifiers_like_any_other(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing, split = given_folds(corrupt)
    path = landing / "splits" / "amber_0.csv"
    case_id = read_table(path)["val"][0]
    others = pl.DataFrame({"train": [""] * 3, "val": [case_id, "SYN-ZZ-9009", "nobody"]})
    write_table(path, pl.concat([changed("val", f"{case_id} ".lower())(read_table(path)), others]))
    staged = bare(landing, splits=(split,))
    assert staged.table("folds").filter(of_case == case_id)["fold"].to_list() == [0]
    assert reasons(staged, "folds") == ["case is not in the cases table", "identifier does not match SYN-[A-Z0-9]{2}-[0-9]{4}"]


def given_folds(corrupt: Corrupt) -> tuple[Path, GivenSplit]:
    """Return a landing with fold files for two of the cancer types, and the split that reads them."""
    landing = corrupt()
    (landing / "splits").mkdir()
    clinical = read_table(landing / "clinical.csv")
    for cancer_type in ("amber", "dune"):
        own = clinical.filter(pl.col("cancer_type") == cancer_type.upper())["case_id"]
        for fold in range(2):
            held_out = own.gather_every(2, fold).alias("val")
            train = pl.Series("train", [*own.gather_every(2, 1 - fold), *[""] * 9])[: max(len(held_out), len(own) // 2)]
            frame = pl.concat([train.to_frame(), held_out.to_frame()], how="horizontal")
            write_table(landing / "splits" / f"{cancer_type}_{fold}.csv", frame)
    path = "splits/{cancer_type}_{fold}.csv"
    return landing, GivenSplit(kind="given", name="two", path=path, cancer_types=("amber", "dune"), num_folds=2, held_out="val")


def test_given_folds_that_hold_a_case_out_twice_under_an_alias_are_leakage(corrupt: Corrupt, bare: Callable[..., Staged]) -> None:
    landing, split = given_folds(corrupt)
    case_id = read_table(landing / "splits" / "amber_0.csv")["val"][0]
    pl.DataFrame({"case_id": [case_id], "record": ["H-1"]}).write_csv(landing / "register.csv")
    alias = AliasSource(path="register.csv", case_id=CASE_ID, alias=Identifier(column="record"), source="register")

    def hold_out(name: str, fold: int) -> None:
        path = landing / "splits" / f"amber_{fold}.csv"
        write_table(path, pl.concat([read_table(path), pl.DataFrame({"train": [""], "val": [name]})]))

    hold_out("H-1", 0)  # the same fold: no leak
    assert bare(landing, splits=(split,), aliases=(alias,)).table("folds").filter(of_case == case_id)["fold"].to_list() == [0]
    hold_out("h-1", 1)
    with pytest.raises(
        LeakageError, match=rf"1 people are held out in several folds .* first .*{case_id} in fold 0.*H-1 in fold 1"
    ):
        bare(landing, splits=(split,), aliases=(alias,))


def test_aliquots_of_a_case_share_its_fold(corrupt: Corrupt, bare: Callable[..., Staged], clean: Staged) -> None:
    """Folds are drawn for cases, so a table of aliquots gives the folds of a table of cases."""

    def as_aliquots(frame: pl.DataFrame) -> pl.DataFrame:
        return pl.concat(frame.with_columns(case_id=pl.col("case_id") + f"-0{number}") for number in (1, 2))

    rule = Identifier(column="case_id", extract="^(SYN-[A-Z0-9]{2}-[0-9]{4})-0[12]$")
    of_aliquots = {
        name: getattr(clean.contract, name).model_copy(update={"case_id": rule}) for name in ("cases", "clinical", "endpoints")
    }
    staged = bare(corrupt({"clinical.csv": as_aliquots}), **of_aliquots)
    assert staged.table("folds").equals(clean.table("folds"))
    assert staged.table("folds").select("split", "case_id").is_unique().all()


# --- whole sites

SITES = SitePreservedSplit(kind="site_preserved", name="sites", num_folds=4, seed=3)


def many_cases(num_sites: int = 60, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return cases and endpoints: sites of 1 to 60 cases, three cancer types of which a site treats some, one of them rare."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(num_sites), rng.integers(1, 60, num_sites))
    lean = rng.dirichlet((0.6, 0.4, 0.1), num_sites)
    cancer_type = [rng.choice(["amber", "birch", "cedar"], p=lean[s]) for s in site]
    case_id = [f"SYN-AA-{number:04}" for number in range(len(site))]
    names = pl.Series([f"S{s}" for s in site])
    cases = pl.DataFrame({"case_id": case_id, "cancer_type": cancer_type, "site": names})
    outcome = {"case_id": case_id, "endpoint": "os", "event_observed": rng.random(len(site)) < 0.3}
    return cases, pl.DataFrame(outcome)


def site_folds(
    contract: Contract, cases: pl.DataFrame, endpoints: pl.DataFrame, split: SitePreservedSplit = SITES
) -> pl.DataFrame:
    ingest = Ingest(contract.model_copy(update={"splits": (split,)}), Path("nowhere"))
    ingest.cases.add((case_id, "synthetic") for case_id in cases["case_id"])
    return read_folds(ingest, cases, endpoints, CASE_ALIASES.empty()).join(cases, on="case_id").join(endpoints, on="case_id")


def test_a_site_is_held_out_as_a_whole_and_folds_are_alike(synthetic_contract: Contract) -> None:
    cases, endpoints = many_cases()
    folds = site_folds(synthetic_contract, cases, endpoints)
    assert folds.height == cases.height
    assert folds.group_by("site").agg(pl.col("fold").n_unique())["fold"].max() == 1
    for stratum, tolerance in (
        ([], 0.02),
        (["cancer_type"], 0.1),
        (["event_observed"], 0.05),
        (["cancer_type", "event_observed"], 0.12),
    ):
        counts = folds.group_by("fold", *stratum).len()
        shares = counts["len"] / counts.select(pl.sum("len").over(stratum or pl.lit(1))).to_series()
        assert len(shares) == SITES.num_folds * max(folds.select(stratum).n_unique(), 1)
        assert ((shares - 1 / SITES.num_folds).abs() < tolerance).all(), counts


def test_folds_of_sites_follow_from_cases_and_seed_alone(synthetic_contract: Contract) -> None:
    cases, endpoints = many_cases()
    folds = site_folds(synthetic_contract, cases, endpoints)
    again = site_folds(synthetic_contract, cases[::-1], endpoints.sample(fraction=1.0, shuffle=True, seed=1))
    assert folds.sort("case_id").equals(again.sort("case_id"))
    one_each = cases.with_columns(site="case_id")  # where all sites are alike the seed decides
    drawn = [site_folds(synthetic_contract, one_each, endpoints, SITES.model_copy(update={"seed": seed})) for seed in (3, 4)]
    assert not drawn[0].sort("case_id").equals(drawn[1].sort("case_id"))


def test_fewer_sites_than_folds_are_refused(synthetic_contract: Contract) -> None:
    cases, endpoints = many_cases(num_sites=3)
    with pytest.raises(ContractError, match="split sites: 3 sites, expected 4 or more"):
        site_folds(synthetic_contract, cases, endpoints)
    lone = cases.with_columns(site=pl.lit(None, pl.String))  # cases without a site are no sites
    with pytest.raises(ContractError, match="split sites: 0 sites"):
        site_folds(synthetic_contract, lone, endpoints)


def test_a_contract_has_several_splits(clean: Staged) -> None:
    folds, cases = clean.table("folds"), clean.table("cases")
    assert folds.select("split", "case_id").is_unique().all()
    for split in clean.contract.splits:
        assert set(folds.filter(pl.col("split") == split.name)["case_id"]) == set(cases["case_id"])
    of_site = folds.filter(pl.col("split") == "synthetic-3fold-sites").join(cases, on="case_id").group_by("site")
    assert of_site.agg(pl.col("fold").n_unique())["fold"].to_list() == [1] * cases["site"].n_unique()
