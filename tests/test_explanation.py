"""Explanations: attention, coordinates and terms as the networks have them, and where heat is drawn."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from explaining import LIMIT, STUDY, row_of
from PIL import Image

from feature_store.bag_reader import even_rows
from feature_store.errors import CaseUnusableError
from feature_store.slides.kept import KeptPicture
from mice_model.artifacts import load_network, network_path
from mice_model.data import StudyData, open_study
from mice_model.encoders import segment_softmax
from mice_model.explanation.attribution import Attribution, attribute
from mice_model.explanation.pictures import COLOURS, blank_canvas, heat, heat_map, patch_side_px, thumbnail_canvas
from mice_model.explanation.report_terms import term_contributions
from mice_model.explanation.slides import see_slides
from mice_model.explanation.trained import Networks, networks_of
from mice_model.protocol import Run, finetune, pretrain
from mice_model.service import Plan
from mice_model.study import CoxSkipConfig

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def data(explained_study: Plan) -> Iterator[StudyData]:
    with open_study(STUDY, explained_study.home, explained_study.snapshot_id, explained_study.cohorts) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(data: StudyData, explained_study: Plan) -> Run:
    return Run(data, explained_study.folder)


@pytest.fixture(scope="module")
def row(data: StudyData) -> int:
    return row_of(data, "amber", (0, 1))


@pytest.fixture(scope="module")
def case_id(data: StudyData, row: int) -> str:
    return str(data.training_set.cases["case_id"][row])


@pytest.fixture(scope="module")
def attribution(run: Run, data: StudyData, row: int) -> Attribution:
    return attribute(run, row, networks_of(data, row))


def own_patches(run: Run, row: int, fold: int) -> list[np.ndarray]:
    """Return each bag's patches as the network gets them, read and scaled without FoldData.batch."""
    bags, scaler = run.data.training_set.bags[row], run.prepare(fold).pipeline.patches
    limit = max(LIMIT // len(bags), 1)
    found = []
    for bag in bags:
        whole = run.data.reader.read(bag, verify=True)
        rows = [index * len(whole) // limit for index in range(limit)] if len(whole) > limit else list(range(len(whole)))
        found.append(np.clip((whole[rows].astype(np.float32) - scaler.mean) / scaler.std, -scaler.clip, scaler.clip))
    return found


def test_attention_is_the_networks_own_and_sums_to_one(run: Run, data: StudyData, row: int, attribution: Attribution) -> None:
    (fold,) = networks_of(data, row).folds
    patches = torch.from_numpy(np.concatenate(own_patches(run, row, fold)))
    of_seed = []
    for seed in STUDY.seeds:
        model = run.network(run.prepare(fold))
        model.load_state_dict(load_network(network_path(run.folder, fold, "amber", seed))[0])
        encoder = model.eval().encoders["slide"]
        with torch.no_grad():
            hidden = encoder.embed(patches)
            hidden = hidden + encoder.mamba(encoder.norm(hidden), torch.tensor([0, len(patches)], dtype=torch.int32))
            of_seed.append(torch.softmax(encoder.attention(hidden)[:, 0], 0).double().numpy())
    found = np.concatenate([slide.weight for slide in attribution.slides])
    np.testing.assert_allclose(found, np.mean(of_seed, axis=0), rtol=1e-4)
    assert np.abs(of_seed[0] - of_seed[1]).max() > 1e-4, "seeds that do not differ show no averaging"
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert (found > 0).all()


def test_the_score_is_the_evaluation_s(explained_study: Plan, case_id: str, attribution: Attribution) -> None:
    stored_rows = pl.read_parquet(explained_study.folder / "predictions.parquet")
    stored = stored_rows.row(by_predicate=pl.col("case_id") == case_id, named=True)
    assert attribution.risk_score == pytest.approx(stored["risk_score"], abs=1e-5)
    assert attribution.risk_score == pytest.approx(np.mean(attribution.risk_of_network))
    assert attribution.routing == pytest.approx(stored["experts"], abs=1e-5)
    assert attribution.curves[0].survival == pytest.approx(stored["survival"], abs=1e-5)
    assert attribution.curves[0].edges_days == pytest.approx(stored["bin_edges_days"], rel=1e-6)


@pytest.mark.parametrize("least_slides", [1, 2])
def test_coordinates_follow_the_bag_s_order_when_subsampled_too(
    run: Run, data: StudyData, explained_study: Plan, least_slides: int
) -> None:
    row = next(
        (
            row
            for row in range(len(data.training_set))
            if len(data.training_set.bags[row]) >= least_slides
            and max(bag.num_patches for bag in data.training_set.bags[row]) > LIMIT
        ),
        None,
    )
    if row is None:
        pytest.skip("no case of two slides")
    found = attribute(run, row, Networks((0,), "", is_held_out=False))
    slides = see_slides(found.slides, data.reader, explained_study.home.embeddings)
    packed = run.prepare(0).batch(np.array([row]), None).patches_Pd.numpy()
    np.testing.assert_array_equal(np.concatenate(own_patches(run, row, 0)), packed)
    for slide, seen, patches in zip(found.slides, slides, own_patches(run, row, 0), strict=True):
        all_xy = data.reader.coordinates(slide.record)
        assert len(seen.xy) == len(slide.weight) == len(patches)
        np.testing.assert_array_equal(seen.xy, all_xy[slide.rows])
        assert slide.rows.tolist() == sorted(set(slide.rows.tolist()))
    assert sum(len(slide.rows) for slide in found.slides) < sum(slide.record.num_patches for slide in found.slides)


def test_even_rows_are_those_that_a_batch_takes() -> None:
    assert even_rows(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert even_rows(10, 4).tolist() == [0, 2, 5, 7]
    assert even_rows(1, 1).tolist() == [0]
    weight = segment_softmax(torch.tensor([1.0, 2.0]), torch.tensor([0, 0]), 1)
    assert float(weight.sum()) == pytest.approx(1)


def test_terms_add_up_to_gradient_times_input(run: Run, data: StudyData, row: int, attribution: Attribution) -> None:
    (fold,) = networks_of(data, row).folds
    fold_data = run.prepare(fold)
    group, _ = data.rows.groups(fold_data.pipeline.is_within)
    text, scaler = fold_data.pipeline.report.text, fold_data.pipeline.report.scaler.of(int(group[row]))
    batch = fold_data.batch(np.array([row]), None)
    gradients = []
    for seed in STUDY.seeds:
        model = run.network(fold_data)
        model.load_state_dict(load_network(network_path(run.folder, fold, "amber", seed))[0])
        model.eval()
        steps = []
        for column in range(len(scaler.mean)):  # by differences: nothing of autograd
            risks = []
            for step in (-1e-2, 1e-2):
                moved = replace(batch, vectors={**batch.vectors, "report": batch.vectors["report"].clone()})
                moved.vectors["report"][0, column] += step
                with torch.no_grad():
                    risks.append(float(model(moved).risk_score_B[0]))
            steps.append((risks[1] - risks[0]) / 2e-2)
        gradients.append(steps)
    gradient = np.mean(gradients, axis=0)
    values = fold_data.encoded.vectors["report"][row]
    share = attribution.report
    assert share.total == pytest.approx(gradient @ values, abs=1e-3)
    assert sum(part.value for part in share.contributions) + share.rest == pytest.approx(share.total, abs=1e-9)
    assert np.abs(values).max() < scaler.clip, "a value was cut, so there is a rest"
    assert share.rest == pytest.approx(0, abs=1e-6)
    cut = replace(scaler, clip=float(np.sort(np.abs(values))[-2]))  # as if two of its values were too far out
    kept = np.where(np.abs(values) < cut.clip, gradient, 0)
    parts = term_contributions(text, cut, data.counted, row, kept)
    assert sum(part.value for part in parts) == pytest.approx(kept @ values, abs=1e-5)
    words = set(data.counted.terms[data.counted.counts[[row]].indices])
    assert {part.label for part in share.contributions} == words & set(text.terms)
    assert any(part.value > 0 for part in share.contributions)
    assert any(part.value < 0 for part in share.contributions)


@pytest.fixture(scope="module")
def run_with_skip(explained_study: Plan, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A study whose networks start from a skip and whose inputs are scaled within cancer types; its networks are untrained."""
    train = STUDY.pretrain.model_copy(update={"epochs": 0})
    study = STUDY.model_copy(
        update={
            "seeds": (0,),
            "cox_skip": CoxSkipConfig(penalties={"report": (1.0, 4.0), "clinical": (5.0, 20.0)}, multipliers=(1.0,)),
            "features": STUDY.features.model_copy(update={"within_cancer_types": True}),
            "pretrain": train,
            "finetune": train,
        }
    )
    with open_study(study, explained_study.home, explained_study.snapshot_id, explained_study.cohorts) as data:
        run = Run(data, tmp_path_factory.mktemp("with-skip"))
        for fold in study.folds:
            pretrain(run, fold, 0)
            finetune(run, fold, 0)
        yield run


def test_the_report_s_part_goes_through_the_skip_too(run_with_skip: Run, row: int) -> None:
    run = run_with_skip
    networks = networks_of(run.data, row)
    (fold,) = networks.folds
    fold_data, cancer = run.prepare(fold), run.data.cancer_index[[row]]
    skip, batch = fold_data.skip.skip, fold_data.batch(np.array([row]), None)
    parts = {name: fold_data.encoded.part(name)[[row]] for name in ("report", "clinical")}
    model, values = run.trained(fold_data, "amber", 0).eval(), fold_data.encoded.vectors["report"][row]

    def risk(report: np.ndarray, offset: np.ndarray) -> float:
        moved = {**batch.vectors, "report": torch.from_numpy(report)}
        with torch.no_grad():
            output = model(replace(batch, vectors=moved, offset_B=torch.from_numpy(offset.astype(np.float32))))
        return float(output.risk_score_B[0])

    total, by_network_alone = 0.0, 0.0
    for column, value in enumerate(values):
        step = np.eye(len(values), dtype=np.float32)[[column]] * 1e-2
        both = [parts["report"] + sign * step for sign in (-1, 1)]
        offsets = [skip.log_risk({**parts, "report": report}, cancer) for report in both]
        total += value * (risk(both[1], offsets[1]) - risk(both[0], offsets[0])) / 2e-2
        here = skip.log_risk(parts, cancer)
        by_network_alone += value * (risk(both[1], here) - risk(both[0], here)) / 2e-2
    found = attribute(run, row, networks)
    assert found.risk_score == pytest.approx(risk(parts["report"], skip.log_risk(parts, cancer)), abs=1e-5)
    assert found.report.total == pytest.approx(total, abs=2e-3)
    assert abs(total - by_network_alone) > 0.05, "a skip that says nothing of reports shows nothing"
    of_terms = sum(part.value for part in found.report.contributions)
    assert of_terms + found.report.rest == pytest.approx(found.report.total, abs=1e-9)
    assert np.abs(values).max() < fold_data.pipeline.report.scaler.clip
    assert found.report.rest == pytest.approx(0, abs=1e-5)


def test_a_case_of_no_fold_is_scored_by_all_networks_and_another_type_by_the_pretrained(run: Run, data: StudyData) -> None:
    outside, other = row_of(data, "amber", (2,)), row_of(data, "birch", (0, 1))
    assert networks_of(data, outside) == Networks((0, 1), "amber", is_held_out=False)
    assert networks_of(data, other) == Networks((int(data.fold[other]),), "", is_held_out=True)
    both = attribute(run, outside, networks_of(data, outside))
    each = [attribute(run, outside, Networks((fold,), "amber", is_held_out=False)) for fold in (0, 1)]
    assert (len(both.risk_of_network), len(both.curves)) == (4, 2)
    assert both.risk_score == pytest.approx(np.mean([one.risk_score for one in each]))
    assert both.report.total == pytest.approx(np.mean([one.report.total for one in each]))
    by_fold = [{part.label: part.value for part in one.report.contributions} for one in each]
    for label, value in both.report.contributions:
        assert value == pytest.approx(sum(parts.get(label, 0) for parts in by_fold) / 2)
    assert np.isfinite(attribute(run, other, networks_of(data, other)).risk_score)


def test_a_case_that_the_study_cannot_look_at(run: Run, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fold_data = run.prepare(0)
    nothing = {name: np.zeros_like(there) for name, there in fold_data.encoded.is_present.items()}
    lacking = replace(fold_data, encoded=replace(fold_data.encoded, is_present=nothing))
    monkeypatch.setitem(run.prepared, 0, lacking)
    with pytest.raises(CaseUnusableError, match="none of slide, omics, report, clinical"):
        attribute(run, row, Networks((0,), "", is_held_out=False))


def test_the_hottest_pixel_lies_at_the_hottest_patch() -> None:
    xy = np.array([(1_000, 2_000), (1_256, 2_000), (1_000, 2_256), (5_096, 7_376)], np.int32)
    weight = np.array([0.1, 0.2, 0.05, 0.65])
    assert patch_side_px(xy) == 256
    for order in (np.arange(4), np.array([3, 1, 0, 2])):
        canvas = blank_canvas(xy, 256)
        found = heat(xy[order], weight[order], 256, canvas)
        top, left = np.unravel_index(np.nanargmax(found), found.shape)
        assert pytest.approx((canvas.x + left * canvas.scale, canvas.y + top * canvas.scale), abs=canvas.scale) == (5_096, 7_376)
        image = np.asarray(heat_map(found, canvas, 0.65))
        colour = np.rint(np.array(COLOURS(1.0)[:3]) * 255)
        rows, columns = np.nonzero((image == colour).all(axis=-1))
        assert (rows.min(), columns.min()) == (top, left)
        assert image[top - 3, left - 3].tolist() == [255, 255, 255]
    assert patch_side_px(xy[:1]) == 256


def test_patches_that_lie_over_one_another_show_the_hotter() -> None:
    xy = np.array([(0, 0), (128, 0)], np.int32)
    canvas = blank_canvas(xy, 256)
    middle = round(192 / canvas.scale)
    for weight in ([0.7, 0.3], [0.3, 0.7]):
        assert heat(xy, np.array(weight), 256, canvas)[2, middle] == 0.7


def test_a_thumbnail_is_drawn_on_where_its_part_of_the_slide_lies(tmp_path: Path) -> None:
    Image.new("RGB", (100, 50), "white").save(tmp_path / "slide.jpg")
    canvas = thumbnail_canvas(KeptPicture(tmp_path / "slide.jpg", (4_000.0, 8_000.0, 1_600.0, 800.0), 160))
    assert canvas.image.size == (700, 350)
    left, top, right, bottom = canvas.box(np.array([(4_800, 8_320)], np.int32), 160)[0].tolist()
    assert (left, top, right, bottom) == (350, 140, 420, 210)
    found = heat_map(heat(np.array([(4_800, 8_320)], np.int32), np.array([1.0]), 160, canvas), canvas, 1.0)
    assert found.getpixel((0, 0)) == (255, 255, 255)
    assert found.getpixel((385, 175)) != (255, 255, 255)


def test_explanation_asks_the_store_through_its_own_modules() -> None:
    allowed = {"bag_reader", "bag_record", "case_slides", "contract", "durable", "erase", "errors", "explanation_pages", "home"}
    allowed |= {"lake", "landing", "report_embeddings", "report_encoding", "slides"}
    for path in (Path(__file__).parents[1] / "mice_model" / "explanation").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"^from feature_store\.(\w+)", text, re.MULTILINE)) <= allowed, path.name
        assert "SELECT " not in text.replace("SELECT case_id FROM cases", "")
        assert "logg" not in text.replace("logged", ""), "nothing of a case is logged"
