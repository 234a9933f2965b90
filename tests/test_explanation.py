"""Explanations: attention, coordinates and terms as the networks have them; the page, errors, erasure; real slides to a page."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from cohort_runs import SMALL
from PIL import Image
from typer.testing import CliRunner

from faults.slide_cohorts import CONTRACT, write_slides, write_tables
from feature_store.bag_reader import even_rows
from feature_store.case_slides import SlideSource, find_slide
from feature_store.contract import Contract, load_contract
from feature_store.erase.execute import erase_case
from feature_store.erase.plan import plan_erasure
from feature_store.errors import CaseMissingError, CaseUnusableError, ModelMissingError, PagePlaceError, SlideReadError
from feature_store.explanation_pages import case_of, page_path, pages, unfinished
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.slides.kept import KeptPicture, kept_picture
from feature_store.slides.regions import read_regions
from feature_store.slides.slide_file import open_slide, slide_sha256
from mice_cli.main import app
from mice_model import protocol
from mice_model.artifacts import load_network, network_path
from mice_model.baselines import BaselineRun
from mice_model.data import StudyData, open_study
from mice_model.encoders import segment_softmax
from mice_model.explanation.attribution import Attribution, attribute
from mice_model.explanation.explain import Explained, explain_case
from mice_model.explanation.page import Findings, render
from mice_model.explanation.pictures import COLOURS, blank_canvas, heat, heat_map, patch_side_px, thumbnail_canvas
from mice_model.explanation.report_terms import Contribution, term_contributions
from mice_model.explanation.slides import see_slides
from mice_model.explanation.trained import Networks, find_trained, networks_of
from mice_model.protocol import Run
from mice_model.service import Plan, evaluate_study, finetune_study, plan_training, pretrain_study
from mice_model.slide_embedding.run import RunConfig, embed_contract
from mice_model.study import Study

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

WSI = Path(os.environ.get("MICE_DATA") or Path(__file__).parents[2] / "shared" / "data") / "raw" / "wsi"
LIMIT = 18
STUDY = Study.model_validate(
    {
        "name": "tiny",
        "description": "two seeds of a small network",
        "contracts": ["synthetic"],
        "split": "synthetic-3fold",
        "evaluate": ["amber"],
        "folds": [0, 1],
        "seeds": [0, 1],
        "features": {
            "modalities": ["slide", "omics", "report", "clinical"],
            "patches_per_case": LIMIT,
            "report_min_documents": 2,
            "report_components": 8,
        },
        "network": {"width": 8, "omics_hidden": [8], "overlapping_ranks": [2, 3, 4], "top_k": 2, "expert_rank": 2},
        **{stage: {"epochs": 1, "batch_size": 32, "epoch_selection": "fixed"} for stage in ("pretrain", "finetune")},
    }
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def plan(published_home: Home, synthetic_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A model version, trained and evaluated, in a home of its own. For reading only, but for pages."""
    home = Home(shutil.copytree(published_home.root, tmp_path_factory.mktemp("trained") / "home"))
    return trained(STUDY, home, synthetic_contract)


def trained(study: Study, home: Home, contract: Contract) -> Plan:
    """Write a study to its home, train it there, and evaluate it without baselines, which take longest."""
    home.studies.mkdir()
    (home.studies / f"{study.name}.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")), encoding="utf-8")
    plan = plan_training(study, home, dict.fromkeys(contract.cohorts, contract), num_workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "run_fold_baselines", lambda inputs, seed: [BaselineRun({}, ())] * len(inputs))
        for step in (pretrain_study, finetune_study, evaluate_study):
            step(plan)
    return plan


@pytest.fixture(scope="module")
def data(plan: Plan) -> Iterator[StudyData]:
    with open_study(STUDY, plan.home, plan.snapshot_id, plan.cohorts) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(data: StudyData, plan: Plan) -> Run:
    return Run(data, plan.folder)


def row_of(data: StudyData, cancer_type: str, folds: tuple[int, ...], *, least_slides: int = 1) -> int:
    """Return a case that has a report and more patches than the limit takes."""
    cases, bags = data.training_set.cases, data.training_set.bags
    for row in np.flatnonzero(np.isin(data.fold, folds) & data.counted.is_present):
        is_large = sum(bag.num_patches for bag in bags[row]) > LIMIT and len(bags[row]) >= least_slides
        if cases["cancer_type"][int(row)] == cancer_type and is_large:
            return int(row)
    raise AssertionError(f"no case of {cancer_type} in {folds}")


@pytest.fixture(scope="module")
def row(data: StudyData) -> int:
    return row_of(data, "amber", (0, 1))


@pytest.fixture(scope="module")
def case_id(data: StudyData, row: int) -> str:
    return str(data.training_set.cases["case_id"][row])


@pytest.fixture(scope="module")
def attribution(run: Run, data: StudyData, row: int) -> Attribution:
    return attribute(run, row, networks_of(data, row))


@pytest.fixture(scope="module")
def explained(plan: Plan, synthetic_contract: Contract, case_id: str) -> Explained:
    return explain_case(STUDY, plan.home, {"synthetic": synthetic_contract}, case_id)


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


def test_the_score_is_the_evaluation_s(plan: Plan, case_id: str, attribution: Attribution) -> None:
    (stored,) = pl.read_parquet(plan.folder / "predictions.parquet").filter(pl.col("case_id") == case_id).iter_rows(named=True)
    assert attribution.risk_score == pytest.approx(stored["risk_score"], abs=1e-5)
    assert attribution.risk_score == pytest.approx(np.mean(attribution.risk_of_network))
    assert attribution.routing == pytest.approx(stored["experts"], abs=1e-5)
    assert attribution.curves[0].survival == pytest.approx(stored["survival"], abs=1e-5)
    assert attribution.curves[0].edges_days == pytest.approx(stored["bin_edges_days"], rel=1e-6)


@pytest.mark.parametrize("least_slides", [1, 2])
def test_coordinates_follow_the_bag_s_order_when_subsampled_too(run: Run, data: StudyData, plan: Plan, least_slides: int) -> None:
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
    slides = see_slides(found.slides, data.reader, plan.home.embeddings)
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
    text, scaler = fold_data.pipeline.text, fold_data.pipeline.text_scaler
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


class Checker(HTMLParser):
    """Follows a page's elements: which are open, which there were, and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checker:
    """Return what a page consists of, after seeing that it is whole and fetches and runs nothing."""
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert not set(checker.found) & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert all(link.startswith(("#", "data:image/")) for link in checker.links)
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page
    return checker


def test_the_page_says_all_and_fetches_nothing(plan: Plan, explained: Explained, case_id: str) -> None:
    assert explained.path == plan.home.reports / "explanations" / plan.model_version / f"{case_id}.html"
    assert [path.name for path in explained.path.parent.iterdir()] == [explained.path.name]
    page = explained.path.read_text(encoding="utf-8")
    assert checked(page).found.count("img") == len(explained.found.slides)
    (fold,) = explained.found.networks.folds
    for said in (
        case_id,
        plan.model_version,
        f"snapshot {plan.snapshot_id}",
        f"held out in fold {fold}",
        f"{explained.found.attribution.risk_score:.3f}",
        "tfidf-svd",
        "synthetic-32",
        "honest: pre-trained",
        "Research software",
        "not what caused an outcome",
        "drawn from coordinates alone",
        "read from a file of features",
        "evenly chosen as in the prediction",
    ):
        assert said in page, said
    lower, peers = explained.found.standing.num_lower(explained.found.attribution.risk_score), explained.found.standing.peers
    assert f"<b>{lower} of {len(peers)}</b>" in page
    for patch in explained.found.top:
        assert f">{patch.x}<" in page
    assert "The study, its data or the code have changed" not in page
    assert "stored another score" not in page


HOSTILE = "<script>alert('x')</script><img src=http://example.org/x>"


def test_hostile_text_is_escaped(explained: Explained) -> None:
    share = explained.found.attribution.report
    hostile = replace(share, contributions=(Contribution(HOSTILE, 0.5), Contribution(f"{HOSTILE}!", -0.5)))
    slides = [replace(slide, slide_id=HOSTILE) for slide in explained.found.slides]
    found = replace(
        explained.found,
        attribution=replace(explained.found.attribution, report=hostile),
        slides=slides,
        top_notes=[HOSTILE],
    )
    subject = replace(explained.subject, case_id=HOSTILE, cohort=HOSTILE, cancer_type=HOSTILE, encoders={"report": HOSTILE})
    page = render(subject, found)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "example.org" in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert all(link.startswith(("#", "data:image/")) for link in checker.links)


def test_what_is_missing_is_said(explained: Explained) -> None:
    bare = replace(
        explained.found.attribution, is_present={"clinical": True, "slide": False, "report": False}, slides=(), report=None
    )
    found = Findings(Networks((0, 1), "", is_held_out=False), bare, None, [], [], [])
    page = render(replace(explained.subject, is_current=False), found)
    checked(page)
    for said in (
        "The study holds the case out in no fold.",
        "The case has no slide.",
        "The case has no report.",
        "synthesised from the cancer type",
        "not used by the networks",
        "where the score stands among other cases is not known",
        "as pre-trained on all cancer types",
        "have changed since this model was trained",
    ):
        assert said in page, said
    unknown = replace(bare, report=replace(explained.found.attribution.report, contributions=None))
    assert "is not known for this encoder" in render(explained.subject, replace(found, attribution=unknown))


def test_errors_say_what_to_do(plan: Plan, synthetic_contract: Contract, case_id: str, tmp_path: Path, data: StudyData) -> None:
    contracts = {"synthetic": synthetic_contract}
    with pytest.raises(CaseMissingError, match="no row in snapshot"):
        explain_case(STUDY, plan.home, contracts, "SYN-AA-9999")
    with Lake(plan.home).reader() as connection:
        known = {row[0] for row in connection.execute("SELECT case_id FROM cases").fetchall()}
    without = min(known - set(data.training_set.cases["case_id"]), default=None)
    if without is not None:
        with pytest.raises(CaseUnusableError, match="with endpoint os"):
            explain_case(STUDY, plan.home, contracts, without)
    other = STUDY.model_copy(update={"name": "never"})
    with pytest.raises(ModelMissingError, match=r"no trained version.*mice run --study never"):
        explain_case(other, plan.home, contracts, case_id)
    with pytest.raises(PagePlaceError, match="in the home"):
        explain_case(STUDY, plan.home, contracts, case_id, output=plan.home.root / "page.html")
    assert find_trained(STUDY, plan.home, ["synthetic"]).is_current


def test_a_case_that_the_study_cannot_look_at(run: Run, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fold_data = run.prepare(0)
    nothing = {name: np.zeros_like(there) for name, there in fold_data.encoded.is_present.items()}
    lacking = replace(fold_data, encoded=replace(fold_data.encoded, is_present=nothing))
    monkeypatch.setitem(run.prepared, 0, lacking)
    with pytest.raises(CaseUnusableError, match="none of slide, omics, report, clinical"):
        attribute(run, row, Networks((0,), "", is_held_out=False))


def test_half_trained_and_older_versions(plan: Plan, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(plan.home.root / "store", home.root / "store")
    shutil.copytree(plan.folder, home.models / plan.model_version)
    found = find_trained(STUDY, home, ["synthetic"])
    assert (found.version, found.is_current, found.snapshot_id) == (plan.model_version, True, plan.snapshot_id)
    shutil.copytree(plan.folder, home.models / "older")
    path = network_path(home.models / plan.model_version, 1, "amber", 1)
    path.with_name(path.name + ".json").unlink()
    assert (find_trained(STUDY, home, ["synthetic"]).version, find_trained(STUDY, home, ["synthetic"]).is_current) == (
        "older",
        False,
    )
    shutil.rmtree(home.models / "older")
    with pytest.raises(ModelMissingError, match="1 versions, none with all of its networks"):
        find_trained(STUDY, home, ["synthetic"])


def test_erasing_a_case_takes_its_pages(plan: Plan, case_id: str, synthetic_contract: Contract, tmp_path: Path) -> None:
    home = Home(shutil.copytree(plan.home.root, tmp_path / "home"))
    contracts = {"synthetic": synthetic_contract}
    own = explain_case(STUDY, home, contracts, case_id).path
    other_id = pl.read_parquet(plan.folder / "predictions.parquet").filter(pl.col("case_id") != case_id)["case_id"][0]
    other = explain_case(STUDY, home, contracts, other_id).path
    unfinished(own).write_text("half a page", encoding="utf-8")
    page_path(home, "gone", case_id.lower()).parent.mkdir()
    page_path(home, "gone", case_id.lower()).write_text("an old page", encoding="utf-8")
    before = other.read_bytes()
    planned = plan_erasure(home, case_id)
    assert set(planned.explained) == {own, unfinished(own), page_path(home, "gone", case_id.lower())}
    assert erase_case(home, case_id, planned).proof.is_clean
    assert pages(home) == [other]
    assert other.read_bytes() == before
    with pytest.raises(CaseMissingError):
        explain_case(STUDY, home, contracts, case_id)


def test_pages_are_found_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("TCGA-02-0001", "a/b", "..", "17", "x.html", "Ä 1"):
        path = page_path(home, "m", name)
        assert path.parent == home.explanations / "m"
        assert (case_of(path), case_of(unfinished(path))) == (name, name)
    assert case_of(Path("notes.txt")) is None


def test_a_slide_s_file_is_found_by_its_checksum(tmp_path: Path) -> None:
    write_slides(tmp_path, ["S-0001", "S-0002"])
    first, second = (tmp_path / "wsi" / f"S-000{number}.svs" for number in (1, 2))
    digest, size = slide_sha256(first), first.stat().st_size
    assert find_slide(tmp_path, [SlideSource("scans", "wsi/S-0001.svs", size, digest)], digest, "S-0001") == first
    masked = SlideSource("scans", f"wsi/{digest[:12]}.svs", size, digest)  # as a de-identified cohort records it
    assert find_slide(tmp_path, [masked], digest, "S-0001") == first
    shutil.copy(second, first)
    assert find_slide(tmp_path, [masked], digest, "S-0001") is None
    assert find_slide(tmp_path, [SlideSource("scans", "../outside.svs", 1, digest)], digest, "S-0001") is None


def test_a_slide_of_several_files_is_found_by_the_checksum_over_all(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.mrxs").write_text(f"index of {name}", encoding="utf-8")
        (tmp_path / name / "Data0000.dat").write_text(name, encoding="utf-8")
    sources = [SlideSource("scans", f"{name}.mrxs", 1, f"of {name}.mrxs alone") for name in ("first", "second")]
    digest = slide_sha256(tmp_path / "second.mrxs")
    for slide_id in ("second", "S1-MASKED"):
        assert find_slide(tmp_path, sources, digest, slide_id) == tmp_path / "second.mrxs"


def test_regions_are_the_slide_s_pixels(tmp_path: Path) -> None:
    write_slides(tmp_path, ["S-0001"])
    path = tmp_path / "wsi" / "S-0001.svs"
    same, half = (read_regions(path, np.array([(256, 512)], np.int32), 256, size)[0] for size in (256, 128))
    with open_slide(path) as slide:
        expected = slide.read_region((256, 512), 0, (256, 256)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(same), np.asarray(expected))
    assert half.size == (128, 128)
    assert np.abs(np.asarray(half, float) - np.asarray(expected.resize((128, 128), Image.Resampling.BOX), float)).mean() < 8
    with pytest.raises(SlideReadError, match="expected at most 4,096"):
        read_regions(path, np.array([(0, 0)], np.int32), 10**6, 10**6)
    (tmp_path / "no.svs").write_bytes(b"no slide")
    with pytest.raises(SlideReadError):
        read_regions(tmp_path / "no.svs", np.array([(0, 0)], np.int32), 256, 256)


def test_the_command(plan: Plan, case_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def call(*arguments: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(app, ["explain", *arguments, "--home", str(plan.home.root)])

    page = tmp_path / "pages" / "page.html"
    with caplog.at_level("DEBUG"):
        done = call(case_id, "--study", "tiny", "--output", str(page))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["path"], said["model_version"], said["held_out"]) == (str(page), plan.model_version, True)
    assert said["top_attention"] <= 1
    assert said["patches"] <= LIMIT
    assert page.stat().st_mode & 0o777 == 0o600
    checked(page.read_text(encoding="utf-8"))
    assert case_id not in caplog.text
    assert case_id not in done.stderr
    for arguments in (("SYN-AA-9999", "--study", "tiny"), (case_id, "--study", "nosuch"), (case_id, "--study", "demo")):
        failed = call(*arguments)
        assert failed.exit_code == 2
        assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert "expected one of" in call(case_id, "--study", "nosuch").stderr


REAL = {"TCGA-CR-7395": "tcga-cr-7395-01a-01-ts1.svs", "CMU-0001": "cmu-1-small-region.svs"}
SCANS = SMALL | {
    "name": "scans",
    "description": "slides to predictions",
    "contracts": ["scans"],
    "split": "scans-2fold",
    "evaluate": ["larynx", "tongue"],
    "features": {"modalities": ["slide", "clinical"], "patches_per_case": 16},
}


@pytest.mark.skipif(not (WSI / "broken.svs").is_file(), reason="no real slides: set MICE_DATA to the landing folder")
def test_real_slides_go_from_file_to_a_page(tmp_path: Path) -> None:
    folder, home = tmp_path / "landing", Home(tmp_path / "home")
    others = [f"S-{number:04}" for number in range(1, 31)]
    write_tables(folder, [*REAL, *others])
    write_slides(folder, others[:2])
    for case_id, name in REAL.items():
        shutil.copy(WSI / name, folder / "wsi" / f"{case_id}.svs")
    # the frozen slide's header is silent, so the contract speaks for it
    home.cohorts.mkdir(parents=True)
    text = CONTRACT.replace("patches: {mpp: 0.5,", "slide_mpp: 0.5\n    patches: {mpp: 1.0,")
    (home.cohorts / "scans.yaml").write_text(text, encoding="utf-8")
    scans = load_contract(home.cohorts / "scans.yaml")
    embed_contract(scans, folder, home, RunConfig(num_workers=1, num_decoders=0))
    publish_cohort(Lake(home), stage(scans, folder, home), "scans")
    plan = trained(Study.model_validate(SCANS), home, scans)
    scores = dict(pl.read_parquet(plan.folder / "predictions.parquet").select("case_id", "risk_score").iter_rows())
    place = ["--home", str(home.root), "--landing", str(folder)]
    for case_id, num_seen in (("TCGA-CR-7395", 16), ("CMU-0001", 9)):
        done = CliRunner().invoke(app, ["explain", case_id, "--study", "scans", *place])
        assert done.exit_code == 0, done.output
        said = json.loads(done.stdout.splitlines()[-1])
        assert said["risk_score"] == pytest.approx(scores[case_id], abs=1e-4)
        assert (said["slides"], said["patches"], said["top_patches_shown"]) == (1, num_seen, min(12, num_seen))
        page = Path(said["path"]).read_text(encoding="utf-8")
        assert checked(page).found.count("img") == 1 + said["top_patches_shown"]
        assert page.count("data:image/jpeg") == 1 + said["top_patches_shown"]
        assert "Over its thumbnail" in page
    the_heat_lies_where_the_patches_are(home, plan, folder / "wsi" / "TCGA-CR-7395.svs")


def the_heat_lies_where_the_patches_are(home: Home, plan: Plan, path: Path) -> None:
    """Compare a slide's patches as its file has them with what of the thumbnail their heat is drawn over."""
    with open_study(plan.study, home, plan.snapshot_id, plan.cohorts) as data:
        (bag,) = next(bags for bags in data.training_set.bags if bags and bags[0].case_id == path.stem)
        xy = data.reader.coordinates(bag)
    kept = kept_picture(home.embeddings, bag.source_sha256, xy)
    assert kept_picture(home.embeddings, bag.source_sha256, xy[::-1]) is None
    canvas = thumbnail_canvas(kept)
    pixels, side = np.asarray(canvas.image, float), kept.level0_size_px
    in_file = [np.asarray(image, float).mean() for image in read_regions(path, xy, side, 32)]

    def likeness(shift_px: int) -> float:
        boxes = canvas.box(xy + shift_px, side)
        below = [pixels[top + 6 : bottom - 6, left + 6 : right - 6].mean() for left, top, right, bottom in boxes]
        return float(np.corrcoef(below, in_file)[0, 1])

    assert likeness(0) > 0.9  # the thumbnail has outlines that the file has not
    assert likeness(0) > max(likeness(side // 4), likeness(-side // 4)) + 0.02


def test_explanation_asks_the_store_through_its_own_modules() -> None:
    allowed = {"bag_reader", "bag_record", "case_slides", "contract", "durable", "erase", "errors", "explanation_pages", "home"}
    allowed |= {"lake", "landing", "report_embeddings", "report_encoding", "slides"}
    for path in (Path(__file__).parents[1] / "mice_model" / "explanation").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"^from feature_store\.(\w+)", text, re.MULTILINE)) <= allowed, path.name
        assert "SELECT " not in text.replace("SELECT case_id FROM cases", "")
        assert "logg" not in text.replace("logged", ""), "nothing of a case is logged"
