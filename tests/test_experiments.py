"""Experiments: variants as studies, two of them to a page, hidden modalities as if they never were, what warns of a failure."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from typer.testing import CliRunner

from feature_store.home import Home
from mice_cli.main import app
from mice_model import protocol, scoring, service
from mice_model.alarms import Drift, RouterEntropy, stand_in_drift
from mice_model.baselines import BaselineRun
from mice_model.cox_skip import CoxSkip, FittedSkip
from mice_model.data import open_study
from mice_model.experiments.catalogue import run_named
from mice_model.experiments.experiment import (
    BASE,
    Experiment,
    ExperimentError,
    changes_of,
    load_experiment,
    variant_studies,
    variant_study,
)
from mice_model.experiments.hidden import hide
from mice_model.experiments.modality_patterns import Pattern, score_patterns, shifts, subsets
from mice_model.experiments.names import CHECKS, experiment_names
from mice_model.experiments.observed import Signs, mean_signs, observe
from mice_model.experiments.page import kept_comparisons
from mice_model.experiments.paired import compare, concordances, together
from mice_model.experiments.run import run_experiment
from mice_model.experiments.watch import failure_signs, sentences, watch
from mice_model.protocol import Run
from mice_model.service import plan_training
from mice_model.stratified_cox import Coefficients
from mice_model.study import Study, load_study
from mice_model.training import predict

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "experiments"
MODALITIES = ("slide", "omics", "report", "clinical")
STUDY = Study.model_validate(
    {
        "name": "tiny",
        "description": "a small network",
        "contracts": ["synthetic"],
        "split": "synthetic-3fold",
        "evaluate": ["amber", "birch"],
        "folds": [0, 1],
        "features": {
            "modalities": MODALITIES,
            "patches_per_case": 9,
            "report_min_documents": 2,
            "report_components": 4,
            "components": {"rna": 4, "copy_number": 2},
        },
        "cox_skip": {"multipliers": [1.0], "num_inner_folds": 2},
        "network": {"width": 8, "omics_hidden": [8], "overlapping_ranks": [2, 3], "top_k": 2, "expert_rank": 2, "depth": 1},
        **{stage: {"epochs": 1, "batch_size": 32, "epoch_selection": "fixed"} for stage in ("pretrain", "finetune")},
    }
)
EXPERIMENT = Experiment(
    title="Groups",
    caption="One group.",
    base="tiny",
    variants={"consensual only": {"network": {"groups": ["consensual"]}, "pretrain": {"epochs": 0}}, "as it is": {"seeds": [0]}},
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:  # baselines take longest, and are tested elsewhere
        risks = {"cox_clinical": lambda one: np.arange(len(one.clinical_test), dtype=np.float64)}
        patch.setattr(
            scoring,
            "run_fold_baselines",
            lambda inputs, seed: [BaselineRun({name: risk(one) for name, risk in risks.items()}, ()) for one in inputs],
        )
        yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def home(published_home, tmp_path_factory):
    return Home(shutil.copytree(published_home.root, tmp_path_factory.mktemp("experiments") / "home"))


@pytest.fixture(scope="module")
def contracts(synthetic_contract):
    return dict.fromkeys(synthetic_contract.cohorts, synthetic_contract)


@pytest.fixture(scope="module")
def result(home, contracts, tmp_path_factory):
    """The small experiment, run once by its name, with its home."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "groups.yaml").write_text(yaml.safe_dump(EXPERIMENT.model_dump(mode="json")), encoding="utf-8")
    return run_named("groups", folder, STUDY, home, contracts, num_workers=1)


@pytest.fixture(scope="module")
def plan(result, home, contracts):
    return plan_training(STUDY, home, contracts, num_workers=1)


@pytest.fixture(scope="module")
def run(plan):
    with open_study(plan.study, plan.home, plan.snapshot_id, plan.cohorts) as data:
        yield Run(data, plan.folder)


# Variants as studies


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_one_of_its_study(path):
    experiment = load_experiment(path)
    base = load_study(ROOT / "studies" / f"{experiment.base}.yaml")
    studies = variant_studies(experiment, base)
    assert studies[BASE] is base
    assert all(
        (study.split, study.evaluate, study.folds) == (base.split, base.evaluate, base.folds) for study in studies.values()
    )
    content = [study.model_dump_json(exclude={"name", "description"}) for study in studies.values()]
    assert len({study.name for study in studies.values()}) == len(set(content)), "equal variants and no others have equal names"


def test_the_papers_questions_are_shipped():
    base = load_study(ROOT / "studies" / "tcga.yaml")
    of = {name: variant_studies(load_experiment(SHIPPED / f"{name}.yaml"), base) for name in ("expert-ablation", "alpha")}
    assert {study.network.groups for study in of["expert-ablation"].values()} == {
        (*groups,)
        for groups in (
            ("consensual",), ("specialised",), ("overlapping",), ("consensual", "specialised"), ("consensual", "overlapping"),
            ("specialised", "overlapping"), ("consensual", "specialised", "overlapping"),
        )
    }  # fmt: skip
    alphas = {name: (study.pretrain.alpha, study.finetune.alpha) for name, study in of["alpha"].items() if name != BASE}
    assert set(alphas.values()) == {(a, a) for a in (0, 0.5, 1, 2, 5)}
    shares = variant_studies(load_experiment(SHIPPED / "data-efficiency.yaml"), base).values()
    assert {study.training_share for study in shares} == {0.1, 0.25, 0.5, 0.75, 1}
    assert len({study.training_share_seed for study in shares}) >= 3
    pretraining = variant_studies(load_experiment(SHIPPED / "pretraining.yaml"), base)
    only = pretraining["contrastive only"].pretrain
    assert only.survival_weight == only.cox_weight == only.ranking_weight == 0 < only.alpha
    assert only.epoch_selection == "fixed"
    assert set(CHECKS) < set(experiment_names(SHIPPED))


def test_changes_are_merged_at_any_depth_and_null_sets_back():
    found = variant_study(STUDY, {"cox_skip": None, "features": {"components": {"rna": 8}}, "pretrain": {"alpha": 0}})
    assert found.cox_skip is None
    assert found.features.components == {"rna": 8, "copy_number": 2}
    assert found.features.modalities == MODALITIES
    assert (found.pretrain.alpha, found.pretrain.epochs) == (0, 1)
    assert changes_of(STUDY, found) == {"cox_skip": "none", "features.components.rna": "8", "pretrain.alpha": "0.0"}
    assert found.description == "tiny with cox_skip none; features.components.rna 8; pretrain.alpha 0.0"
    assert variant_study(STUDY, {"features": {"components": {"rna": None}}}).features.components == {"copy_number": 2}
    assert variant_study(found, {"cox_skip": {}}).cox_skip is not None
    assert variant_study(STUDY, {"preset": "paper", "seeds": [3]}).network.width == 256


def test_equal_variants_are_one_study_and_one_that_changes_nothing_is_the_base():
    assert variant_study(STUDY, {"pretrain": {"epochs": 1}}) is STUDY
    one = variant_study(STUDY, {"pretrain": {"alpha": 5, "epochs": 1}}, "here")
    assert one == variant_study(STUDY, {"pretrain": {"alpha": 5.0}}, "there")
    assert one.name.startswith("tiny--")
    assert one.name != variant_study(STUDY, {"pretrain": {"alpha": 4}}).name
    with_baselines = STUDY.model_copy(update={"baselines": ("concatenation",)})
    assert variant_study(with_baselines, {}).baselines == ("concatenation",)
    assert variant_study(with_baselines, {"seeds": [1]}).baselines == ()


def test_quick_is_the_first_seed_and_two_folds():
    long = STUDY.model_copy(update={"seeds": (3, 4), "folds": (0, 1, 2)})
    found = variant_study(long, {"seeds": [5, 6]}, is_quick=True)
    assert (found.seeds, found.folds) == ((5,), (0, 1))
    assert variant_study(STUDY, {}, is_quick=True) is STUDY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"widht": 8}}, r"variant 'v' of study tiny: network\.widht: Extra inputs"),
        ({"cox_skpi": None}, "cox_skpi: Extra inputs"),
        ({"pretrain": {"epochs": -1}}, r"pretrain\.epochs: .*greater than or equal to 0"),
        ({"name": "other"}, r"variant 'v': changes \['name'\], expected none of these"),
    ],
)
def test_a_variant_that_is_no_study_is_a_typed_error(changes, message):
    with pytest.raises(ExperimentError, match=message):
        variant_study(STUDY, changes, "v")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"varaints": {}}, "varaints: Extra inputs"),
        ({"reference": "nobody"}, "reference 'nobody' of variants"),
        ({"variants": {BASE: {}}}, "which is no variant's name"),
        ({"figure": "pie"}, "figure: Input should be"),
    ],
)
def test_a_malformed_file_is_a_typed_error(tmp_path, change, message):
    path = tmp_path / "groups.yaml"
    path.write_text(yaml.safe_dump(EXPERIMENT.model_dump(mode="json") | change), encoding="utf-8")
    with pytest.raises(ExperimentError, match=message):
        load_experiment(path)
    with pytest.raises(ExperimentError, match=r"experiment other: no file .*expected one of \['groups', 'modality-patterns'"):
        load_experiment(tmp_path / "other.yaml")


def test_a_variant_of_other_cases_is_refused_before_anything_is_trained(home, contracts):
    other = EXPERIMENT.model_copy(update={"variants": {"other endpoint": {"endpoint": "pfi"}, "fold": {"folds": [2]}}})
    with pytest.raises(ExperimentError, match="variant 'other endpoint': another endpoint than 'base'"):
        run_experiment("other", other, STUDY, Home(home.root / "nowhere"), contracts)
    assert not (home.root / "nowhere").exists()


# An experiment to its page


def test_an_experiment_ends_in_a_page_and_json(result, home, plan):
    page = result.page(home).read_text(encoding="utf-8")
    kept = json.loads(result.page(home).with_suffix(".json").read_text(encoding="utf-8"))
    assert "SYN-" not in page
    assert page.count("<svg") == 1
    for words in ("consensual only", plan.model_version, plan.study.protocol, "tfidf-svd", plan.training_set_id):
        assert words in page
    figures = kept["figures"]["variants"]
    assert figures["consensual only"]["changes"] == {"network.groups": "consensual", "pretrain.epochs": "0"}
    assert figures["base"]["difference"]["difference"] == figures["as it is"]["difference"]["difference"] == 0
    assert figures["as it is"]["model_version"] == figures["base"]["model_version"] == plan.model_version
    assert any(note.startswith("as it is: what base is already") for note in kept["notes"])
    assert len(result.model_versions) == 2
    assert not kept["is_quick"]


def test_its_figures_are_those_of_the_evaluations(result, plan):
    own = json.loads((plan.folder / "summary.json").read_text(encoding="utf-8"))["c_index"]
    base = result.figures["variants"]["base"]
    assert base["c_index"] == own["mean"]["mice"], "interval and all: same resamples"
    assert base["by_type"] == {name: own[name]["mice"] for name in STUDY.evaluate}
    other = plan.home.models / result.figures["variants"]["consensual only"]["model_version"]
    theirs = json.loads((other / "summary.json").read_text(encoding="utf-8"))["c_index"]["mean"]["mice"]["c_index"]
    difference = result.figures["variants"]["consensual only"]["difference"]
    assert difference["difference"] == pytest.approx(theirs - own["mean"]["mice"]["c_index"])
    assert difference["low"] <= difference["difference"] <= difference["high"]


def test_a_second_run_trains_nothing_and_finds_the_same(result, home, contracts, monkeypatch):
    monkeypatch.setattr(protocol, "fit", None)
    monkeypatch.setattr(service, "score_held_out", None)
    files = {path: path.stat().st_mtime_ns for path in home.models.rglob("*") if path.suffix in {".safetensors", ".parquet"}}
    again = run_experiment("groups", EXPERIMENT, STUDY, home, contracts, num_workers=1)
    assert again.figures == result.figures
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_report_shows_the_experiments_that_its_model_took_part_in(result, home, plan):
    (found,) = kept_comparisons(home, plan.model_version)
    assert found == result.comparisons[0]
    assert kept_comparisons(home, "0" * 16) == ()


def test_shares_of_the_data_are_rows_and_a_figure(home, contracts, monkeypatch):
    """Two draws that are the same here, so that one is trained; that draws are averaged is tested below."""
    monkeypatch.setattr(service, "write_report", lambda _evaluation, _summary, path, *_: path.touch())  # slow, tested above
    draws = {f"draw {number}": {"training_share": 0.5} for number in (1, 2)}
    half = Experiment(title="Shares", caption="", base="tiny", figure="data_efficiency", variants=draws)
    one_fold = STUDY.model_copy(update={"folds": (0,), "evaluate": ("amber",)})
    found = run_experiment("shares", half, one_fold, home, contracts, num_workers=1)
    shares = found.figures["shares"]
    assert list(shares) == ["50% of the cases", "100% of the cases"]
    assert shares["50% of the cases"] == {key: found.figures["variants"]["draw 1"][key] for key in shares["50% of the cases"]}
    assert shares["100% of the cases"]["difference"]["difference"] == 0
    assert len(found.model_versions) == 2
    assert "Cox, clinical" in found.comparisons[0].svg
    assert "against 100% of the cases" in found.comparisons[0].title


# Hidden modalities


def without(fold_data, rows, *names):
    return hide(fold_data, rows, {name: np.ones(len(rows), bool) for name in names})


def held_out_rows(run, fold=0, cancer_type="amber"):
    return run.data.cohort_rows(cancer_type, fold)[1]


def test_the_pattern_that_hides_nothing_is_the_evaluation_to_the_bit(run, plan):
    amber, birch = score_patterns(run, [Pattern("all", ()), Pattern("no omics", ("omics",))])
    for scored in (amber, birch):
        kept = pl.read_parquet(plan.folder / "predictions.parquet").filter(cancer_type=scored.held_out.cancer_type)
        assert tuple(kept["case_id"]) == scored.held_out.case_id
        np.testing.assert_array_equal(kept["risk_score"].to_numpy(), scored.held_out.risk_score["all"])
        has_omics = scored.has["omics"]
        changed = scored.held_out.risk_score["no omics"] != kept["risk_score"].to_numpy()
        assert changed[has_omics].all()


def test_hiding_is_a_batch_without_it(run):
    fold_data, rows = run.prepare(0), held_out_rows(run)
    whole, batch = fold_data.batch(rows, None), without(fold_data, rows, "slide", "omics").batch(rows, None)
    assert whole.present["slide"].any()
    assert not batch.present["slide"].any()
    assert not batch.present["omics"].any()
    assert torch.equal(batch.present["report"], whole.present["report"])
    assert (batch.vectors["omics"] == 0).all()
    assert torch.equal(batch.vectors["clinical"], whole.vectors["clinical"])
    assert len(batch.patches_Pd) == len(batch.bag_case_S) == 0
    assert batch.cu_seqlens.tolist() == [0]
    # a batch made by hand, of the whole one
    by_hand = replace(
        whole,
        vectors=whole.vectors | {"omics": torch.zeros_like(whole.vectors["omics"])},
        present=whole.present | {name: torch.zeros_like(whole.present[name]) for name in ("slide", "omics")},
        patches_Pd=whole.patches_Pd[:0],
        cu_seqlens=whole.cu_seqlens[:1],
        bag_case_S=whole.bag_case_S[:0],
        offset_B=batch.offset_B,
        baseline_BK=batch.baseline_BK,
    )
    model = run.trained(fold_data, "amber", 0).eval()
    with torch.inference_mode():
        assert torch.equal(model(by_hand).risk_score_B, model(batch).risk_score_B)
    assert torch.equal(fold_data.batch(rows, None).vectors["omics"], whole.vectors["omics"]), "the data itself is as it was"


def test_only_the_named_cases_lose_and_a_bag_goes_with_its_case(run):
    fold_data, rows = run.prepare(0), held_out_rows(run)
    has = fold_data.encoded.is_present["slide"][rows]
    loses = np.zeros(len(rows), bool)
    loses[np.flatnonzero(has)[0]] = True
    batch = hide(fold_data, rows, {"slide": loses}).batch(rows, None)
    assert batch.present["slide"].tolist() == (has & ~loses).tolist()
    assert batch.bag_case_S.tolist() == np.flatnonzero(has & ~loses).tolist()


def test_the_skip_does_not_know_what_is_hidden(run):
    fold_data, rows = run.prepare(0), held_out_rows(run)
    names = [name for name, _ in fold_data.skip.skip.parts]
    width = {name: fold_data.encoded.part(name).shape[1] for name in names}
    weight = np.arange(1.0, 1 + sum(width.values()))
    coefficients = Coefficients(weight, np.zeros((len(run.data.cancer_types), len(weight))))
    skip = CoxSkip(tuple(width.items()), coefficients, {}, {})
    columns = np.concatenate([fold_data.encoded.part(name) for name in names], axis=1).astype(np.float64)
    known = replace(fold_data, skip=FittedSkip(skip, columns @ weight))
    left = without(known, rows, "omics")
    of_omics = np.repeat([fold_data.encoded.parts[name][0] == "omics" for name in names], list(width.values()))
    np.testing.assert_allclose(left.skip.log_risk[rows], (columns * ~of_omics @ weight)[rows])
    untouched = np.setdiff1d(np.arange(len(columns)), rows)
    np.testing.assert_array_equal(left.skip.log_risk[untouched], known.skip.log_risk[untouched])
    none_hidden = hide(known, rows, {}).skip.log_risk
    np.testing.assert_array_equal(none_hidden, known.skip.log_risk)


def test_a_case_with_nothing_left_is_scored_by_its_cancer_type(run):
    fold_data, rows = run.prepare(0), held_out_rows(run)
    left = without(fold_data, rows, *MODALITIES)
    risk = predict(run.trained(fold_data, "amber", 0), left, rows).risk
    np.testing.assert_allclose(risk, risk[0], rtol=1e-5)


def test_patterns_are_every_subset_and_draws_are_nested(run):
    assert [pattern.name for pattern in subsets(("slide", "omics", "report"))] == [
        "slide + omics + report", "slide + omics", "slide + report", "omics + report", "slide", "omics", "report",
    ]  # fmt: skip
    assert subsets(MODALITIES)[0] == Pattern(" + ".join(MODALITIES), ())
    assert len(subsets(MODALITIES)) == 15
    from mice_model.experiments.modality_patterns import _drawn

    rows = held_out_rows(run)
    draws = [_drawn(pattern, run.prepare(0), rows)["omics"] for pattern in shifts(MODALITIES) if pattern.hidden == ("omics",)]
    assert len(draws) == 3
    assert not (draws[0] & ~draws[1]).any()
    assert not (draws[1] & ~draws[2]).any()
    assert 0 < draws[1].sum() < len(rows)


def test_modality_patterns_end_in_a_page(home, contracts, plan):
    found = run_named("modality-patterns", SHIPPED, STUDY, home, contracts, num_workers=1)
    whole = found.figures["available"][" + ".join(MODALITIES)]
    summary = json.loads((plan.folder / "summary.json").read_text(encoding="utf-8"))
    assert whole["c_index"] == summary["c_index"]["mean"]["mice"]
    assert whole["c_index_with_all"] == whole["c_index_with_all_unhidden"]
    clinical = found.figures["available"]["clinical"]
    assert whole["num_with_all"] < clinical["num_with_all"] <= sum(c["num_cases"] for c in summary["cohorts"].values())
    assert len(found.figures["shifted"]) == 12
    page = found.page(home).read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "SYN-" not in page


# Stand-ins and alarms


def test_observed_is_what_the_network_does(run):
    fold_data, rows = run.prepare(0), held_out_rows(run)
    model = run.trained(fold_data, "amber", 0)
    found = observe(model, fold_data, rows)
    predicted = predict(model, fold_data, rows)
    assert found.spread == pytest.approx(predicted.risk.std())
    batch = fold_data.batch(rows, None)
    with torch.inference_mode():
        real, stand_ins = model(batch).modality_features, model.stand_ins(batch)
    there = batch.present["omics"]
    assert 0 < there.sum() == found.num_real["omics"]
    assert found.drift["omics"] == stand_in_drift(real["omics"][there], stand_ins["omics"][there])
    assert set(found.drift) == set(MODALITIES)


def test_figures_are_means_over_networks():
    one = Signs(RouterEntropy(0.2, 0.4), 1.0, {"omics": Drift(0.0, 1.0)}, {"omics": 5})
    other = Signs(RouterEntropy(0.4, 0.8), 3.0, {"omics": Drift(1.0, 2.0), "slide": Drift(0.5, 0.5)}, {"omics": 7, "slide": 2})
    found = mean_signs([[one, one], [other, other]])
    assert (found.entropy.of_case, found.entropy.of_mean, found.spread) == pytest.approx((0.3, 0.6, 2.0))
    assert found.drift == {"omics": Drift(0.5, 1.5), "slide": Drift(0.5, 0.5)}
    assert found.num_real == {"omics": 12, "slide": 2}
    alone = mean_signs([[Signs(None, None, {}, {})]])
    assert (alone.entropy, alone.spread, alone.drift) == (None, None, {})


def test_watching_warns_of_a_network_that_gives_all_one_risk(run, monkeypatch):
    healthy = failure_signs(run)
    assert all(signs.entropy is not None and signs.spread > 0 for signs in healthy.values())

    def collapsed(fold_data, cancer_type, seed, kind=""):
        model = run.network(fold_data)
        with torch.no_grad():
            model.head.weight.zero_()
        return model

    monkeypatch.setattr(Run, "trained", lambda _run, *names: collapsed(*names))
    no_skip = [replace(run.prepare(fold), skip=FittedSkip(run.prepare(fold).skip.skip, np.zeros(80))) for fold in (1, 0)]
    monkeypatch.setattr(Run, "prepare", lambda _run, fold: {each.fold: each for each in no_skip}[fold])
    found = [sentence for sentence in watch(run) if "spread" in sentence]
    assert len(found) == 2
    assert found[0].startswith("amber, fine-tuned: spread of the risk, amber: ")
    assert "expected at least 0.01" in found[0]


def test_sentences_say_of_which_networks_they_are():
    found = sentences({"amber": Signs(RouterEntropy(0.01, 0.9), 1.0, {"slide": Drift(1.5, 0.1)}, {})}, "pretrain")
    assert [sentence.split(":")[0] for sentence in found] == ["amber, pre-trained"] * 2


@pytest.mark.parametrize("name", ["stand-in-drift", "failure-signs"])
def test_checks_end_in_a_page(name, home, contracts, plan):
    found = run_named(name, SHIPPED, STUDY, home, contracts, num_workers=1)
    assert found.model_versions == (plan.model_version,)
    signs = found.figures["signs"]
    assert set(signs["finetune"]) == {"amber", "birch"}
    assert ("pretrain" in signs) == (name == "failure-signs")
    assert len(found.comparisons[0].rows) == (8 if name == "stand-in-drift" else 4)
    assert found.page(home).is_file()


# Figures and the command


def test_means_of_draws_are_means_of_points_and_of_resamples(run):
    (amber,) = score_patterns(Run(replace_study(run, ("amber",)), run.folder), [Pattern("all", ()), Pattern("none", MODALITIES)])
    found = concordances([amber.held_out], num_bootstrap=20)
    both = together(found, {"both": ("all", "none"), "all": ("all",)})["amber"]
    np.testing.assert_allclose(both.samples["both"], (found["amber"].samples["all"] + found["amber"].samples["none"]) / 2)
    rows = compare({"amber": both}, ["all", "both"], "all")
    expected = (found["amber"].point["none"] - found["amber"].point["all"]) / 2
    assert rows["both"].difference["difference"] == pytest.approx(expected)


def replace_study(run, evaluate):
    return replace(run.data, study=run.data.study.model_copy(update={"evaluate": evaluate}))


def test_the_command_lists_and_refuses_by_name(home):
    listed = CliRunner().invoke(app, ["experiment", "--list"])
    assert listed.exit_code == 0
    assert "data-efficiency" in json.loads(listed.stdout.splitlines()[-1])["experiments"]
    for arguments, words in ((["nothing"], "experiment nothing: no file"), (["failure-signs"], "check failure-signs: no study")):
        done = CliRunner().invoke(app, ["experiment", *arguments, "--home", str(home.root)])
        assert done.exit_code == 2
        assert words in done.stderr


def write_study(home):
    home.studies.mkdir(exist_ok=True)
    (home.studies / "tiny.yaml").write_text(yaml.safe_dump(STUDY.model_dump(mode="json")), encoding="utf-8")


def test_the_command_prints_a_table_and_one_object(result, home, monkeypatch):
    from mice_model.experiments import catalogue

    monkeypatch.setattr(catalogue, "run_named", lambda *_, **__: result)
    write_study(home)
    done = CliRunner().invoke(app, ["experiment", "groups", "--study", "tiny", "--home", str(home.root)])
    assert done.exit_code == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["report"] == str(result.page(home))
    assert line["variants"]["base"]["difference"] == 0
    assert "consensual only" in done.stdout
    assert f"protocol: {STUDY.protocol}" in done.stdout


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
def test_dagster_runs_one_by_its_name_and_shows_the_table(result, home, monkeypatch):
    import dagster as dg

    from dagster_project.experiment_assets import experiment
    from dagster_project.resources import Platform
    from mice_model.experiments import catalogue

    asked = []
    monkeypatch.setattr(catalogue, "run_named", lambda *asked_for, **_: asked.append(asked_for) or result)
    write_study(home)
    platform = Platform(home_folder=str(home.root), study="tiny")
    done = dg.materialize([experiment], partition_key="alpha", resources={"platform": platform})
    (materialization,) = done.asset_materializations_for_node("experiment")
    assert asked[0][:3] == ("alpha", SHIPPED, STUDY)
    assert materialization.metadata["report"].value == str(result.page(home))
    assert "| consensual only |" in materialization.metadata["table"].value
