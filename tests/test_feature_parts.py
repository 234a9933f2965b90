"""The parts of the inputs: hand values, gaps, what other data lack, and nothing of a held-out case."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from training_sets import mutations, training_set, vectors
from trees import assert_same

from mice_model.feature_parts import ClinicalPart, Components, MutationPart, ReportPart, VectorPart
from mice_model.study import FeatureConfig
from mice_model.text import TermCounts

CONFIG = FeatureConfig()


def of_all(n):
    """Return the group of each of n cases where all are scaled together, and how many groups there are."""
    return np.full(n, -1), 0


def expression(n=40, num_genes=12, seed=0):
    """Return vectors with two programmes, one large and one small."""
    rng = np.random.default_rng(seed)
    programmes = rng.normal(size=(n, 2)) @ np.repeat(np.eye(2), [8, num_genes - 8], axis=1)
    return vectors([f"G{index}" for index in range(num_genes)], programmes + 0.3 * rng.normal(size=(n, num_genes)))


TRAIN = np.arange(30)
TWO_COMPONENTS = FeatureConfig(components={"rna": 2, "mutations": 2})


def fit_vectors(data, rows=TRAIN, config=CONFIG, name="rna"):
    return VectorPart.fit(data, name, rows, *of_all(len(data.values)), config)


@pytest.mark.parametrize("config", [CONFIG, TWO_COMPONENTS], ids=["values", "components"])
def test_held_out_vectors_reach_no_fit(config):
    data = expression()
    wild = data.values.copy()
    wild[len(TRAIN) :] = np.random.default_rng(1).normal(5, 100, wild[len(TRAIN) :].shape)
    wild[35:] = np.nan
    other = vectors(data.features, wild)
    part, other_part = fit_vectors(data, config=config), fit_vectors(other, config=config)
    assert_same(other_part, part)
    group, _ = of_all(40)
    np.testing.assert_array_equal(other_part.encode(other, group)[TRAIN], part.encode(data, group)[TRAIN])


def test_components_keep_their_sizes_and_have_a_mean_square_of_one():
    data = expression(n=200)
    part = fit_vectors(data, np.arange(200), TWO_COMPONENTS)
    found = part.encode(data, of_all(200)[0])
    assert np.square(found).mean() == pytest.approx(1, rel=1e-4)
    size = np.square(found).mean(axis=0)
    assert size[0] > 1.5 * size[1], "eight genes vary together, and four"
    np.testing.assert_allclose(np.corrcoef(found.T)[0, 1], 0, atol=1e-3)
    np.testing.assert_array_equal(part.components.apply(np.zeros((1, 12), np.float32)), np.zeros((1, 2)))


def test_there_are_no_more_components_than_cases_and_features_allow():
    scaled = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert Components.fit(scaled, 9, 0).directions.shape == (3, 3)
    assert Components.fit(scaled[:3], 9, 0).directions.shape == (3, 2)
    assert fit_vectors(expression(), TRAIN[:2], TWO_COMPONENTS).components is None


def test_a_feature_that_other_data_lack_is_zero_and_its_order_there_is_nothing():
    data = expression()
    part, group = fit_vectors(data), of_all(40)[0]
    whole = part.encode(data, group)
    some = [7, 2, 9]
    other = vectors([*(data.features[index] for index in some), "NEW"], np.c_[data.values[:, some], np.full(40, 8.0)])
    found = part.encode(other, group)
    np.testing.assert_array_equal(found[:, some], whole[:, some])
    assert not np.delete(found, some, axis=1).any()
    by_components = fit_vectors(data, config=TWO_COMPONENTS)
    placed = np.where(np.isin(np.arange(12), some), whole, 0)
    np.testing.assert_allclose(by_components.encode(other, group), placed @ by_components.components.directions, atol=1e-5)


def test_values_are_cut_before_anything_is_learned():
    data = expression()
    spoilt, cut = data.values.copy(), data.values.copy()
    spoilt[3, 5], cut[3, 5] = 36_893, 20
    part, expected = fit_vectors(vectors(data.features, spoilt)), fit_vectors(vectors(data.features, cut))
    assert_same(part, expected)
    group = of_all(40)[0]
    np.testing.assert_array_equal(
        part.encode(vectors(data.features, spoilt), group), part.encode(vectors(data.features, cut), group)
    )
    measured = fit_vectors(vectors(data.features, spoilt), name="measures")  # which may be percentages or counts
    assert measured.scaler.mean[0, 5] > 1_000


def test_features_that_few_cases_have_or_that_never_vary_are_left_out():
    values = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    values[20:, 1] = np.nan  # known in 20 of 30 training cases
    values[10:, 2] = np.nan  # in 10
    values[:30, 3] = 4.0
    values[5, :] = np.nan  # a case without the modality counts for nothing
    assert fit_vectors(vectors("abcde", values)).features == ("a", "b", "e")
    assert fit_vectors(vectors("abcde", values), config=FeatureConfig(min_panel_share=0.3)).features == ("a", "b", "c", "e")
    assert fit_vectors(vectors("d", values[:, 3:4])) is None
    assert fit_vectors(vectors("abcde", np.full((40, 5), np.nan))) is None


COUNTS = np.zeros((8, 5))
COUNTS[:6] = [[1, 0, 0, 0, 3], [0, 0, 1, 0, 1], [0, 2, 1, 0, 0], [0, 0, 1, 0, 1], [1, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
COUNTS[6:] = [[9, 9, 0, 9, 0], [0, 9, 0, 9, 0]]  # held out: D is frequent only here
SEQUENCED = np.array([1, 1, 1, 1, 1, 0, 1, 1], bool)
FOUND = mutations("ABCDE", COUNTS, SEQUENCED)


def fit_mutations(found=FOUND, rows=np.arange(6), **fields):  # noqa: B008 - never changed
    return MutationPart.fit(found, rows, *of_all(len(found.is_present)), FeatureConfig(**fields))


def test_genes_are_the_most_often_mutated_of_the_sequenced_training_cases():
    # of five sequenced training cases A is mutated in 2, B in 1, C in 3, D in none, E in 4
    assert fit_mutations(max_mutated_genes=1).genes == ("E",)
    assert fit_mutations(max_mutated_genes=2).genes == ("C", "E")
    assert fit_mutations(max_mutated_genes=4).genes == ("A", "B", "C", "E")
    everything = fit_mutations(mutations("ABCDE", np.full((8, 5), 2)), max_mutated_genes=2)
    assert everything.genes == ("A", "B"), "of equals the first"


def test_genes_are_flags_and_the_count_of_all_variants_comes_last():
    part = fit_mutations(max_mutated_genes=2)
    raw = np.c_[COUNTS[:, [2, 4]] > 0, np.log1p(COUNTS.sum(axis=1))]
    train = raw[:5]
    expected = (raw - train.mean(axis=0)) / train.std(axis=0)
    expected[~SEQUENCED] = 0
    np.testing.assert_allclose(part.encode(FOUND, of_all(8)[0]), expected, atol=1e-5)


def test_components_of_genes_and_the_count():
    rng = np.random.default_rng(0)
    found = mutations([f"G{index}" for index in range(6)], rng.poisson(0.6, (50, 6)))
    plain = MutationPart.fit(found, np.arange(40), *of_all(50), CONFIG).encode(found, of_all(50)[0])
    part = MutationPart.fit(found, np.arange(40), *of_all(50), TWO_COMPONENTS)
    values = part.encode(found, of_all(50)[0])
    assert values.shape == (50, 3)
    np.testing.assert_array_equal(values[:, -1], plain[:, -1])
    np.testing.assert_allclose(values[:, :-1], plain[:, :-1] @ part.components.directions, atol=1e-5)


def test_no_sequenced_training_case_gives_no_part_and_an_unknown_gene_says_nothing():
    assert fit_mutations(rows=np.array([5])) is None
    part = fit_mutations(max_mutated_genes=2)
    other = mutations(["NEW", "E"], [[1, 1], [1, 0]])
    whole = part.encode(FOUND, of_all(8)[0])
    found = part.encode(other, of_all(2)[0])
    assert found[0, 1] == whole[0, 1]  # E is mutated
    assert found[1, 1] == whole[2, 1]  # it is not
    assert found[0, 0] == found[1, 0] == whole[0, 0]  # C is not known to be


TEXTS = (*("invasive carcinoma margin free", "carcinoma margin involved", "invasive tumor margin free") * 4, None, "  ", "tumor")


def report_data(texts=TEXTS, embeddings=None):
    modalities = {} if embeddings is None else {"report_embeddings": embeddings}
    return training_set(["amber"] * len(texts), reports=texts, **modalities), TermCounts.of(texts)


def fit_report(data, counted, rows, config):
    return ReportPart.fit(data, counted, rows, *of_all(len(data)), config, seed=0)


def test_reports_by_their_terms():
    config = FeatureConfig(report_min_documents=2, report_components=3)
    data, counted = report_data()
    part = fit_report(data, counted, np.arange(12), config)
    values, has_report = part.encode(data, counted, of_all(15)[0])
    assert has_report.tolist() == [True] * 12 + [False, False, True]
    np.testing.assert_allclose(values[:12].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(values[:12].std(axis=0), 1, atol=1e-4)
    assert set(part.text.terms) >= {"invasive", "carcinoma margin"}
    other_texts = (*TEXTS[:12], "frozen section deferred", "frozen section deferred", None)
    other = report_data(other_texts)
    assert_same(fit_report(*other, np.arange(12), config), part)  # held-out texts reach no fit
    assert fit_report(data, counted, np.arange(12, 15), config) is None


def test_reports_by_the_store_s_embeddings():
    config = FeatureConfig(report_encoder="bert")
    values = np.random.default_rng(0).normal(3, 2, (15, 4)).astype(np.float32)
    values[[2, 14]] = 0  # as the store has a case without a report
    embeddings = replace(vectors("0123", values), is_present=~np.isin(np.arange(15), [2, 14]))
    data, counted = report_data(embeddings=embeddings)
    train = np.arange(12)
    part = fit_report(data, counted, train, config)
    assert part.text is None
    found, has_report = part.encode(data, counted, of_all(15)[0])
    np.testing.assert_array_equal(has_report, embeddings.is_present)
    known = values[train[embeddings.is_present[train]]]
    np.testing.assert_allclose(found, (values - known.mean(axis=0)) / known.std(axis=0), atol=1e-4)
    assert fit_report(*report_data(), train, config) is None, "no embedding of any report"


CLINICAL = pl.DataFrame(
    {
        "age_at_diagnosis_years": [40.0, 60.0, 50.0, None, 70.0, None],
        "stage": [1.0, 2.0, 3.0, 4.0, None, None],
        "grade": [None, None, None, None, 2.0, None],
        "sex": ["male", "female", "male", "female", "other", None],
        "histology": [None, None, None, None, "rare", None],
    }
)


def fit_clinical(rows=(0, 1, 2, 3), categorical=("sex", "histology")):
    return ClinicalPart.fit(CLINICAL, np.array(rows), *of_all(6), FeatureConfig(clinical_categorical=categorical))


def test_clinical_columns_by_hand():
    part = fit_clinical()
    # neither grade nor histology has a value in training, and stage no gap there
    assert part.column_names == (
        "age_at_diagnosis_years",
        "stage",
        "sex = female",
        "sex = male",
        "age_at_diagnosis_years missing",
    )
    values, has_any = part.encode(CLINICAL, of_all(6)[0])
    assert has_any.tolist() == [True] * 5 + [False]
    age = lambda years: (years - 50) / np.sqrt(200 / 3)  # noqa: E731
    stage = lambda number: (number - 2.5) / np.sqrt(1.25)  # noqa: E731
    yes, no = 1, -1  # half of the training cases
    gap, no_gap = np.sqrt(3), -np.sqrt(1 / 3)  # one of four
    expected = [
        [age(40), stage(1), no, yes, no_gap],
        [age(60), stage(2), yes, no, no_gap],
        [age(50), stage(3), no, yes, no_gap],
        [0, stage(4), yes, no, gap],
        [age(70), 0, no, no, no_gap],  # a sex that training has not is neither
        [0, 0, 0, 0, gap],  # an unknown one says nothing
    ]
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_clinical_columns_without_any_value_give_no_part():
    assert fit_clinical(rows=(5,)) is None
    numbers_alone = fit_clinical(categorical=("histology",))
    assert numbers_alone.column_names == ("age_at_diagnosis_years", "stage", "age_at_diagnosis_years missing")
    assert fit_clinical(rows=(4,), categorical=()).numeric == ("age_at_diagnosis_years", "grade")


def test_numbers_and_flags_may_be_categories():
    table = CLINICAL.with_columns(
        sex=pl.Series([1, 2, 2, None, 1, 3]), histology=pl.Series([True, False, True, True, None, False])
    )
    part = ClinicalPart.fit(table, np.arange(4), *of_all(6), FeatureConfig(clinical_categorical=("sex", "histology")))
    assert part.categories == (("sex", ("1", "2")), ("histology", ("false", "true")))
    values, _ = part.encode(table, of_all(6)[0])
    columns = dict(zip(part.column_names, values.T, strict=True))
    assert (columns["sex = 2"][:2] > 0).tolist() == [False, True]
    assert columns["sex = 1"][3] == 0
    assert (columns["histology = true"][:2] > 0).tolist() == [True, False]
