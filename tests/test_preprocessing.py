"""The fitted pipeline as a whole: where parts stand, scaling within cancer types, held-out cases, and saved as it was."""

from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from training_sets import mutations, training_set, vectors
from trees import assert_same

from mice_model.artifacts import load_fitted, save_fitted
from mice_model.feature_parts import VectorPart
from mice_model.preprocessing import FeaturePipeline, Rows
from mice_model.study import FeatureConfig
from mice_model.text import TermCounts

NO_PATCHES = np.empty((0, 0), np.float32)
N = 60
ALL_PARTS = FeatureConfig(
    modalities=("omics", "report", "clinical"),
    omics=("rna", "copy_number", "mutations", "protein", "measures"),
    measures=("fraction_altered", "proliferation"),
    components={"rna": 3, "mutations": 2},
    report_min_documents=2,
    report_components=4,
)
WITHIN = ALL_PARTS.model_copy(update={"within_cancer_types": True})


def whole_set(seed=0):
    """Return a set of two cancer types whose expression and age differ, and gaps everywhere; the last 15 are held out."""
    rng = np.random.default_rng(seed)
    is_birch = np.arange(N) % 2 == 1
    rna = rng.normal(size=(N, 6)) + 4 * is_birch[:, None]
    rna[::7] = np.nan
    copies = rng.normal(size=(N, 4))
    copies[:, 3] = rng.uniform(0, 1, N)
    copies[1:N:9, :3] = np.nan  # with the share of the genome that is altered, but without arms
    copies[2:N:9] = np.nan
    protein = rng.normal(size=(N, 3))
    protein[30:] = np.nan
    words = np.array(["invasive carcinoma", "margin free", "margin involved", "lymph node", "grade high", "necrosis present"])
    reports = [None if row % 5 == 0 else " ".join(rng.choice(words, 3)) for row in range(N)]
    age = [None if row % 6 == 0 else float(60 + 15 * is_birch[row] + rng.normal()) for row in range(N)]
    return training_set(
        ["birch" if birch else "amber" for birch in is_birch],
        rna=vectors(["A", "B", "C", "D", "E", "proliferation"], rna),
        copy_number=vectors(["1p", "1q", "2p", "fraction_altered"], copies),
        protein=vectors(["P1", "P2", "P3"], protein),
        mutations=mutations(list("KLMN"), rng.poisson(0.7, (N, 4)), np.arange(N) % 4 != 0),
        reports=reports,
        clinical={"age_at_diagnosis_years": age, "sex": rng.choice(["female", "male"], N).tolist()},
    )


DATA = whole_set()
COUNTED = TermCounts.of(DATA.reports)
CASES = Rows(np.arange(N) % 2, 2)
FIT_ON = np.arange(45)
WIDTHS = {"rna": 3, "copy_number": 3, "mutations": 3, "protein": 3, "measures": 2}


def fit_pipeline(config=ALL_PARTS, data=DATA, counted=COUNTED, patches=NO_PATCHES, cases=CASES):
    return FeaturePipeline.fit(data, counted, patches, FIT_ON, cases, config, seed=0)


@pytest.fixture(scope="module")
def encoded():
    return fit_pipeline().encode(DATA, COUNTED, CASES)


def test_parts_stand_side_by_side_each_with_its_flag(encoded):
    omics = encoded.vectors["omics"]
    assert list(encoded.parts) == [*WIDTHS, "report", "clinical"]
    start = 0
    for name, width in WIDTHS.items():
        assert encoded.parts[name] == ("omics", start, start + width)
        part, flag = encoded.part(name), omics[:, start + width]
        np.testing.assert_array_equal(part, omics[:, start : start + width])
        assert set(flag.tolist()) == {0.0, 1.0}
        assert not part[flag == 0].any()
        start += width + 1
    assert omics.shape == (N, start)
    assert omics.dtype == np.float32
    for name in ("report", "clinical"):
        np.testing.assert_array_equal(encoded.part(name), encoded.vectors[name])
        assert not encoded.part(name)[~encoded.is_present[name]].any()
    assert "slide" not in encoded.is_present


def test_a_case_has_omics_if_it_has_any_part(encoded):
    flags = np.stack([encoded.vectors["omics"][:, encoded.parts[name][2]] for name in WIDTHS])
    np.testing.assert_array_equal(encoded.is_present["omics"], flags.any(axis=0))
    np.testing.assert_array_equal(flags[0] == 1, np.arange(N) % 7 != 0)
    np.testing.assert_array_equal(flags[2] == 1, DATA.mutations.is_present)


def test_the_parts_are_those_of_the_modalities_alone():
    pipeline, data = fit_pipeline(), DATA
    group = np.full(N, -1)
    genes = vectors(data.rna.features[:5], data.rna.values[:, :5])
    found = pipeline.encode(DATA, COUNTED, CASES)
    expected = VectorPart.fit(genes, "rna", FIT_ON, group, 0, ALL_PARTS).encode(genes, group) * genes.is_present[:, None]
    np.testing.assert_array_equal(found.part("rna"), expected)
    np.testing.assert_array_equal(found.part("clinical"), pipeline.clinical.encode(DATA.clinical, group)[0])


def test_measures_are_taken_out_of_the_vectors_that_they_stand_in(encoded):
    pipeline = fit_pipeline()
    assert pipeline.measures.features == ("fraction_altered", "proliferation")
    assert pipeline.rna.features == tuple("ABCDE")
    assert pipeline.copy_number.features == ("1p", "1q", "2p")
    altered = DATA.copy_number.values[:, 3]
    known = np.isfinite(altered)
    np.testing.assert_allclose(np.corrcoef(encoded.part("measures")[known, 0], altered[known])[0, 1], 1, atol=1e-6)
    only_a_measure = known & np.isnan(DATA.copy_number.values[:, 0])
    assert only_a_measure.any()
    has_arms, has_measures = (encoded.vectors["omics"][:, encoded.parts[name][2]] == 1 for name in ("copy_number", "measures"))
    assert not has_arms[only_a_measure].any()
    assert has_measures[only_a_measure].all()
    unmeasured = fit_pipeline(ALL_PARTS.model_copy(update={"omics": ("rna", "copy_number")})).encode(DATA, COUNTED, CASES)
    np.testing.assert_array_equal(unmeasured.part("copy_number"), encoded.part("copy_number"))
    assert not unmeasured.vectors["omics"][only_a_measure, unmeasured.parts["copy_number"][2]].any()
    without = fit_pipeline(ALL_PARTS.model_copy(update={"measures": ()}))
    assert without.measures is None
    assert "fraction_altered" in without.copy_number.features


def test_scaling_within_cancer_types_takes_out_what_tells_them_apart():
    plain = ALL_PARTS.model_copy(update={"components": {}})
    within = plain.model_copy(update={"within_cancer_types": True})
    pooled, apart = (fit_pipeline(config).encode(DATA, COUNTED, CASES) for config in (plain, within))
    for index in range(2):
        ours = FIT_ON[(CASES.cancer_index[FIT_ON] == index) & DATA.rna.is_present[FIT_ON]]
        np.testing.assert_allclose(apart.part("rna")[ours].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(apart.part("rna")[ours].std(axis=0), 1, atol=1e-4)
        assert np.abs(pooled.part("rna")[ours].mean(axis=0)).min() > 0.5
    both = FIT_ON[DATA.rna.is_present[FIT_ON]]
    np.testing.assert_allclose(pooled.part("rna")[both].mean(axis=0), 0, atol=1e-5)
    # a case of a cancer type that was left out is scaled by all
    unknown = fit_pipeline(within).encode(DATA, COUNTED, Rows(np.full(N, -1), 2))
    np.testing.assert_allclose(unknown.part("rna"), pooled.part("rna"), atol=1e-5)


@pytest.mark.parametrize("config", [ALL_PARTS, WITHIN], ids=["pooled", "within"])
def test_nothing_of_a_held_out_case_reaches_a_fit(config):
    other = whole_set(seed=1)
    mixed = {}
    for name in ("rna", "copy_number", "protein"):
        values = np.concatenate([getattr(DATA, name).values[FIT_ON], 50 * getattr(other, name).values[45:]])
        mixed[name] = vectors(getattr(DATA, name).features, values)
    counts = np.concatenate([DATA.mutations.counts.toarray()[FIT_ON], np.full((15, 4), 9)])
    mixed["mutations"] = mutations(list("KLMN"), counts, DATA.mutations.is_present)
    reports = (*DATA.reports[:45], *["other words entirely"] * 15)
    clinical = pl.concat([DATA.clinical[:45], other.clinical[45:].with_columns(age_at_diagnosis_years=pl.lit(5.0))])
    changed = replace(DATA, reports=reports, clinical=clinical, **mixed)
    counted = TermCounts.of(reports)
    before, after = fit_pipeline(config), fit_pipeline(config, changed, counted)
    assert_same(after, before)
    expected = before.encode(DATA, COUNTED, CASES)
    for name, values in after.encode(changed, counted, CASES).vectors.items():
        np.testing.assert_array_equal(values[FIT_ON], expected.vectors[name][FIT_ON])


@pytest.mark.parametrize("config", [ALL_PARTS, WITHIN], ids=["pooled", "within"])
def test_a_saved_pipeline_encodes_the_same_to_the_bit(config, tmp_path):
    patches = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    pipeline = fit_pipeline(config, patches=patches)
    save_fitted(tmp_path / "pipeline", pipeline)
    loaded = load_fitted(tmp_path / "pipeline", FeaturePipeline)
    assert_same(loaded, pipeline)
    before, after = (one.encode(DATA, COUNTED, CASES) for one in (pipeline, loaded))
    assert after.parts == before.parts
    for name, values in before.vectors.items():
        np.testing.assert_array_equal(after.vectors[name], values)
    for name, there in before.is_present.items():
        np.testing.assert_array_equal(after.is_present[name], there)
    assert not after.is_present["slide"].any()


def test_a_study_has_the_parts_it_asks_for():
    pipeline = fit_pipeline(FeatureConfig(modalities=("omics", "clinical"), omics=("rna",)))
    parts = {field.name: getattr(pipeline, field.name) for field in fields(pipeline)}
    assert {name for name, part in parts.items() if part} == {"rna", "clinical"}
    found = fit_pipeline(FeatureConfig(modalities=("report",))).encode(DATA, COUNTED, CASES)
    assert set(found.vectors) == set(found.is_present) == {"report"}
    empty = training_set(["amber"] * N)
    counted = TermCounts.of(empty.reports)
    nothing = fit_pipeline(ALL_PARTS, empty, counted).encode(empty, counted, CASES)
    assert (nothing.vectors, nothing.is_present) == ({}, {})
