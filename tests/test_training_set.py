"""A training set is what the staged tables hold, row by row of its cases; equal rows have an equal id; outcomes stay outcomes."""

import functools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import Corrupt, read_table

from feature_store.bag_reader import BagReader
from feature_store.contract import Contract
from feature_store.contract.feature_sources import VectorSource
from feature_store.contract.rules import Value
from feature_store.contract.slide_sources import SlideTableSource
from feature_store.contract.splits import RandomSplit
from feature_store.errors import LeakageError, SnapshotMissingError, StudyError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.training_set import TrainingSet, latest_snapshot, read_training_set, training_set_id

of_case = pl.col("case_id")
SPLIT = "synthetic-3fold"
NO_OMICS = {"rna": (), "copy_number": (), "mutations": (), "reports": ()}


@functools.cache
def newest(root: Path) -> int:
    """Return the newest snapshot of a store that no test writes to."""
    return latest_snapshot(Lake(Home(root)))


def read(home: Home, cohorts: Sequence[str] = ("synthetic",), endpoint: str = "os", split: str = SPLIT, **more) -> TrainingSet:
    return read_training_set(Lake(home), more.pop("snapshot_id", None) or newest(home.root), cohorts, endpoint, split, **more)


@pytest.fixture(scope="module")
def staged(published_home: Home, dirty_landing: Path, synthetic_contract: Contract) -> Staged:
    """The tables behind the published store."""
    return stage(synthetic_contract, dirty_landing, published_home)


@pytest.fixture(scope="module")
def data(published_home: Home) -> TrainingSet:
    return read(published_home)


# --- rows and alignment


def test_the_cases_are_those_with_the_endpoint_in_order(data: TrainingSet, staged: Staged) -> None:
    endpoints = staged.table("endpoints").filter(pl.col("endpoint") == "os").sort("case_id")
    assert data.cases["case_id"].to_list() == endpoints["case_id"].to_list()
    np.testing.assert_array_equal(data.duration_days, endpoints["duration_days"])
    np.testing.assert_array_equal(data.event_observed, endpoints["event_observed"])
    assert len(data) == endpoints.height < staged.table("cases").height  # the dirt left some without overall survival
    known = staged.table("cases").join(endpoints, on="case_id", how="semi").sort("case_id")
    columns = ["case_id", "cohort", "cancer_type", "site"]
    assert data.cases.select(columns).equals(known.select(columns))


def test_another_endpoint_has_its_own_cases_and_times(published_home: Home, data: TrainingSet, staged: Staged) -> None:
    other = read(published_home, endpoint="pfi")
    endpoints = staged.table("endpoints").filter(pl.col("endpoint") == "pfi").sort("case_id")
    assert other.cases["case_id"].to_list() == endpoints["case_id"].to_list()
    np.testing.assert_array_equal(other.duration_days, endpoints["duration_days"])
    assert other.training_set_id != data.training_set_id


def test_every_array_has_a_row_per_case(data: TrainingSet) -> None:
    n = len(data)
    assert data.rna.values.shape[0] == data.copy_number.values.shape[0] == data.mutations.counts.shape[0] == n
    assert data.protein.values.shape == (n, 0)  # the contract has none
    assert len(data.rna.is_present) == len(data.copy_number.is_present) == len(data.mutations.is_present) == n
    assert len(data.reports) == len(data.bags) == data.clinical.height == data.cases.height == n


def test_clinical_columns_are_aligned(data: TrainingSet, staged: Staged) -> None:
    clinical = data.cases.select("case_id").join(staged.table("clinical"), on="case_id", how="left", maintain_order="left")
    assert data.clinical.equals(clinical.select(data.clinical.columns))
    assert data.clinical.columns == [
        *("age_at_diagnosis_years", "sex", "stage", "grade", "substage", "t_stage", "n_stage", "m_stage", "histology"),
        "diagnosis_year",
    ]
    assert data.clinical["t_stage"].null_count() == len(data)  # the contract has none
    assert data.clinical["stage"].null_count() > 0


def test_clinical_columns_can_be_chosen_or_left_out(published_home: Home) -> None:
    assert read(published_home, clinical_features=["diagnosis_year"]).clinical.columns == ["diagnosis_year"]
    assert read(published_home, clinical_features=[]).clinical.shape[1] == 0


def test_a_column_that_a_snapshot_did_not_have_yet_has_no_value(published_home: Home, data: TrainingSet, tmp_path: Path) -> None:
    """A snapshot of an older version stays readable; the next write to the store adds the column."""
    home = Home(shutil.copytree(published_home.root, tmp_path / "home"))
    with Lake(home).transaction("an older version", "older") as transaction:
        transaction.connection.execute("ALTER TABLE clinical DROP COLUMN stage")
        transaction.connection.execute("ALTER TABLE clinical DROP COLUMN t_stage")
    older = read(home, snapshot_id=transaction.snapshot_id)
    assert older.clinical.schema == data.clinical.schema
    assert older.clinical["stage"].null_count() == older.clinical["t_stage"].null_count() == len(data)
    assert older.clinical["grade"].equals(data.clinical["grade"])
    with Lake(home).transaction("this version", "newer") as transaction:
        transaction.connection.execute("UPDATE clinical SET t_stage = 2")
    newer = read(home, snapshot_id=transaction.snapshot_id)
    assert newer.clinical.schema == data.clinical.schema
    assert set(newer.clinical["t_stage"]) == {2.0}


@pytest.mark.parametrize("modality", ["rna", "copy_number"])
def test_vectors_are_aligned(data: TrainingSet, staged: Staged, modality: str) -> None:
    vectors = getattr(data, modality)
    panel = staged.table("gene_panels").filter(pl.col("modality") == modality).sort("position")
    assert list(vectors.features) == sorted(panel["feature"])
    rows = {row[0]: row[1] for row in staged.table(modality).select("case_id", "values").rows()}
    for row, case_id in enumerate(data.cases["case_id"]):
        assert vectors.is_present[row] == (case_id in rows)
        if case_id in rows:
            np.testing.assert_array_equal(vectors.values[row], np.array(rows[case_id], np.float32))
        else:
            assert np.isnan(vectors.values[row]).all()


def test_a_gene_of_a_case_is_the_number_in_its_file(data: TrainingSet, dirty_landing: Path) -> None:
    source = read_table(dirty_landing / "rna.csv.gz")
    row = data.cases["case_id"].to_list().index(source["case_id"][7])
    gene = data.rna.features.index("TP53")
    assert data.rna.values[row, gene] == np.float32(source["TP53_rnaseq"][7])


def test_mutations_are_counts_of_variants_by_gene(data: TrainingSet, staged: Staged) -> None:
    mutations = staged.table("mutations").join(data.cases, on="case_id", how="semi")
    assert list(data.mutations.genes) == sorted(set(mutations["gene_symbol"]))
    assert data.mutations.counts.sum() == mutations.height
    dense = data.mutations.counts.toarray()
    row_of = {case_id: row for row, case_id in enumerate(data.cases["case_id"])}
    for case_id, gene, count in mutations.group_by("case_id", "gene_symbol").len().rows():
        assert dense[row_of[case_id], data.mutations.genes.index(gene)] == count
    assert dense.max() > 1
    matrix = staged.table("modality_matrix").filter((pl.col("modality") == "mutations") & (pl.col("state") == "present"))
    assert set(data.cases["case_id"].filter(pl.Series(data.mutations.is_present))) == set(matrix["case_id"]) & set(row_of)


def test_reports_are_joined_in_order_of_their_ids(data: TrainingSet, staged: Staged) -> None:
    reports = staged.table("reports").sort("report_id")
    wanted = {case_id: "\n".join(texts) for case_id, texts in reports.group_by("case_id").agg("text").rows()}
    assert list(data.reports) == [wanted.get(case_id) for case_id in data.cases["case_id"]]
    assert reports["case_id"].is_duplicated().any()
    assert None in data.reports


def test_bags_are_a_cases_slides_in_order(data: TrainingSet, staged: Staged, published_home: Home) -> None:
    slides = staged.table("patch_bags").sort("slide_id")
    wanted = dict(slides.group_by("case_id", maintain_order=True).agg("slide_id").rows())
    for case_id, bags in zip(data.cases["case_id"], data.bags, strict=True):
        assert [bag.slide_id for bag in bags] == wanted.get(case_id, [])
        assert all(bag.case_id == case_id for bag in bags)
    assert max(len(bags) for bags in data.bags) == 2
    with BagReader(published_home.bags) as reader:
        assert all(reader.read(bag, verify=True).shape == (bag.num_patches, 32) for bags in data.bags for bag in bags)


def test_folds_partition_the_cases_and_hold_every_kind_of_case(data: TrainingSet) -> None:
    folds = data.cases["fold"]
    assert folds.null_count() == 0
    assert set(folds) == set(range(3))
    kinds = data.cases.with_columns(event=pl.Series(data.event_observed)).group_by("cancer_type", "event", "fold").len()
    sizes = kinds.group_by("cancer_type", "event").agg(pl.col("len").sum().alias("all"), pl.col("len").max())
    assert (sizes["len"] <= sizes["all"] // 3 + 1).all()  # dealt out evenly
    assert (folds.value_counts()["count"].max() - folds.value_counts()["count"].min()) <= 1


def test_an_unknown_split_is_named(published_home: Home) -> None:
    with pytest.raises(
        StudyError,
        match=r"split elsewhere: no case of .* has a fold, expected one of \['synthetic-3fold', 'synthetic-3fold-sites'\]",
    ):
        read(published_home, split="elsewhere")


# --- what a training set is


def test_equal_content_is_an_equal_training_set_whatever_the_snapshot(
    dirty_landing: Path,
    clean_landing: Path,
    synthetic_contract: Contract,
    published_home: Home,
    data: TrainingSet,
    tmp_path: Path,
) -> None:
    home = Home(shutil.copytree(published_home.root, tmp_path / "home"))
    lake = Lake(home)
    for landing in (clean_landing, dirty_landing):
        publish_cohort(lake, stage(synthetic_contract, landing, home), "synthetic")
    published = [s.snapshot_id for s in lake.snapshots() if s.message.startswith("publish cohort")]
    ids = [training_set_id(lake, snapshot_id, ["synthetic"], "os", SPLIT) for snapshot_id in published]
    assert ids[0] == ids[2] == data.training_set_id != ids[1]
    assert training_set_id(lake, published[2], ["synthetic"], "os", "other") != data.training_set_id
    again = read(home)
    assert (again.training_set_id, again.snapshot_id) == (data.training_set_id, published[2])
    np.testing.assert_array_equal(again.rna.values, data.rna.values)
    assert again.bags == data.bags
    between = read(home, snapshot_id=published[1])
    assert (between.training_set_id, len(between)) == (ids[1], 80)  # the clean landing's cases, still there


# --- several cohorts and panels


def halves(contract: Contract, cancer_types: tuple[str, ...], name: str, **changes) -> Contract:
    """Return the contract for some of the cancer types, as a cohort of its own; the others' cases are out."""
    rule = Value(columns=("cancer_type",), map=dict.fromkeys(cancer_types, name))
    cases = contract.cases.model_copy(update={"cohort": rule})
    update = NO_OMICS | {"name": name, "cohorts": (name,), "cases": cases, "max_quarantined_fraction": 1.0, "slides": ()}
    return contract.model_copy(update=update | changes)


def some_genes(contract: Contract, pattern: str, unit: str = "z-score") -> dict[str, tuple[VectorSource, ...]]:
    return {"rna": (contract.rna[0].model_copy(update={"features": pattern, "unit": unit}),)}


@pytest.fixture(scope="module")
def two_panels(clean_landing: Path, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store of two cohorts whose RNA panels overlap in part, and a third cohort that has a case of the first."""
    home = Home(tmp_path_factory.mktemp("two-panels"))
    contracts = [
        halves(synthetic_contract, ("AMBER", "BIRCH"), "one", **some_genes(synthetic_contract, "([A-M].*)_rnaseq")),
        halves(synthetic_contract, ("CEDAR", "DUNE"), "two", **some_genes(synthetic_contract, "([E-Z].*)_rnaseq")),
        halves(synthetic_contract, ("AMBER",), "again", **some_genes(synthetic_contract, "(TP53|ZZZ)_rnaseq")),
    ]
    for contract in contracts:
        publish_cohort(Lake(home), stage(contract, clean_landing, home), contract.name)
    return home


def test_panels_are_united_with_nan_where_a_case_has_none(two_panels: Home, clean_landing: Path) -> None:
    data = read(two_panels, ["one", "two"])
    source = {row["case_id"]: row for row in read_table(clean_landing / "rna.csv.gz").iter_rows(named=True)}
    genes = [name.removesuffix("_rnaseq") for name in next(iter(source.values())) if name != "case_id"]
    assert list(data.rna.features) == sorted(genes)
    assert len(data) == 80
    for row, (case_id, cohort) in enumerate(data.cases.select("case_id", "cohort").rows()):
        if not data.rna.is_present[row]:
            assert case_id not in source
            continue
        for column, gene in enumerate(data.rna.features):
            is_measured = gene[0] <= "M" if cohort == "one" else gene[0] >= "E"
            want = float(source[case_id][f"{gene}_rnaseq"]) if is_measured else np.nan
            np.testing.assert_equal(data.rna.values[row, column], np.float32(want))


def test_protein_is_read_as_rna_is(two_panels: Home, clean_landing: Path, synthetic_contract: Contract, tmp_path: Path) -> None:
    source = synthetic_contract.rna[0].model_copy(update={"unit": "RPPA", "features": "(EGFR|MYC)_rnaseq"})
    contract = halves(synthetic_contract, ("AMBER", "BIRCH"), "one", protein=(source,))
    home = Home(tmp_path / "home")
    publish_cohort(Lake(home), stage(contract, clean_landing, home), "one")
    found, genes = read(home, ["one"]), read(two_panels, ["one"]).rna
    assert found.protein.features == ("EGFR", "MYC")
    np.testing.assert_array_equal(found.protein.is_present, genes.is_present)
    of_both = [genes.features.index(name) for name in found.protein.features]
    np.testing.assert_array_equal(found.protein.values, genes.values[:, of_both])
    assert found.training_set_id != read(two_panels, ["one"]).training_set_id
    assert ["protein" in missing for missing in found.missing_modalities] == (~found.protein.is_present).tolist()


def test_a_cohort_not_asked_for_leaves_no_trace(two_panels: Home) -> None:
    """Neither its panel nor its values: else equal ids would not mean equal arrays."""
    alone = read(two_panels, ["one"])
    assert all(name[0] <= "M" for name in alone.rna.features)
    assert set(alone.cases["cohort"]) == {"one"}
    again = read(two_panels, ["again"])
    assert again.rna.features == ("TP53",)
    assert set(again.cases["case_id"]) < set(alone.cases["case_id"])
    assert len(again) == again.cases["case_id"].n_unique()


def test_a_case_in_two_cohorts_is_leakage(two_panels: Home) -> None:
    with pytest.raises(LeakageError, match=r"in several of the cohorts \['again', 'one'\], expected one each; first \['SYN"):
        read(two_panels, ["one", "two", "again"])


def test_a_cohort_that_was_never_published_adds_nothing(two_panels: Home) -> None:
    assert read(two_panels, ["one", "of the future"]).training_set_id == read(two_panels, ["one"]).training_set_id


# --- refusals


OUTCOMES_AND_OTHERS = ["duration_days", "event_observed", "case_id", "cohort", "source_sha256", "vital_status", 'x" FROM cases']


@pytest.mark.parametrize("name", OUTCOMES_AND_OTHERS)
def test_what_is_no_baseline_column_is_no_feature(published_home: Home, name: str) -> None:
    with pytest.raises(LeakageError, match="expected a baseline column"):
        read_training_set(Lake(published_home), 1, ["synthetic"], "os", SPLIT, clinical_features=["sex", name])


def test_an_unknown_endpoint_or_cohort_or_snapshot_is_named(published_home: Home) -> None:
    with pytest.raises(SnapshotMissingError, match=r"no case of \['synthetic'\] has endpoint dss"):
        read(published_home, endpoint="dss")
    with pytest.raises(SnapshotMissingError, match=r"no case of \[\"O'Hare\"\] has endpoint os"):
        read(published_home, ["O'Hare"])
    with pytest.raises(SnapshotMissingError, match="no snapshot 999"):
        read_training_set(Lake(published_home), 999, ["synthetic"], "os", SPLIT)


def test_a_store_without_a_cohort_has_nothing_to_train_on(tmp_path: Path) -> None:
    from feature_store.publish import Write, publish
    from feature_store.tables import PREDICTIONS

    publish(Lake(Home(tmp_path)), [Write(PREDICTIONS, "v1", PREDICTIONS.empty())], "publish predictions")
    with pytest.raises(SnapshotMissingError, match="no cohort was ever published"):
        latest_snapshot(Lake(Home(tmp_path)))


def test_bags_of_two_encoders_need_a_choice(clean_landing: Path, synthetic_contract: Contract, tmp_path: Path) -> None:
    source = synthetic_contract.slides[0]
    assert isinstance(source, SlideTableSource)
    other = source.model_copy(update={"encoder": source.encoder.model_copy(update={"name": "another-32"})})
    contract = synthetic_contract.model_copy(update=NO_OMICS | {"slides": (source, other)})
    home = Home(tmp_path / "home")
    publish_cohort(Lake(home), stage(contract, clean_landing, home), "synthetic")
    with pytest.raises(StudyError, match=r"encoders \['another-32', 'synthetic-32'\], expected one"):
        read(home)
    with pytest.raises(StudyError, match="expected one"):
        read(home, slide_encoder="a third")
    one, two = (read(home, slide_encoder=name) for name in ("another-32", "synthetic-32"))
    for ours, theirs in zip(one.bags, two.bags, strict=True):
        assert [bag.slide_id for bag in ours] == [bag.slide_id for bag in theirs]
        assert {bag.encoder for bag in ours} <= {"another-32"}


def test_random_folds_do_not_depend_on_the_order_of_rows(corrupt: Corrupt, synthetic_contract: Contract, tmp_path: Path) -> None:
    split = RandomSplit(kind="random", name="s", num_folds=3, seed=1)
    contract = synthetic_contract.model_copy(update={"slides": (), "splits": (split,)})
    landings = [corrupt(), corrupt({"clinical.csv": lambda frame: frame[::-1]})]
    folds = [stage(contract, landing, Home(tmp_path / "homes" / landing.name)).table("folds") for landing in landings]
    assert folds[0].equals(folds[1])
    other = contract.model_copy(update={"splits": (split.model_copy(update={"seed": 2}),)})
    assert not stage(other, landings[0], Home(tmp_path / "homes" / "seed")).table("folds").equals(folds[0])
