"""A case's page: what it says and escapes, errors, erasure, the files of its slides, and real slides from a file to a page."""

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
from cohort_runs import SMALL
from explaining import LIMIT, STUDY, row_of, trained
from PIL import Image
from typer.testing import CliRunner

from faults.slide_cohorts import CONTRACT, write_slides, write_tables
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
from feature_store.slides.kept import kept_picture
from feature_store.slides.regions import read_regions
from feature_store.slides.slide_file import open_slide, slide_sha256
from mice_cli.main import app
from mice_model.artifacts import network_path
from mice_model.data import StudyData, open_study
from mice_model.explanation.explain import Explained, explain_case
from mice_model.explanation.page import Findings, render
from mice_model.explanation.pictures import thumbnail_canvas
from mice_model.explanation.report_terms import Contribution
from mice_model.explanation.trained import Networks, find_trained
from mice_model.service import Plan
from mice_model.slide_embedding.run import RunConfig, embed_contract
from mice_model.study import Study

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

WSI = Path(os.environ.get("MICE_DATA") or Path(__file__).parents[2] / "shared" / "data") / "raw" / "wsi"


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
def case_id(data: StudyData) -> str:
    return str(data.training_set.cases["case_id"][row_of(data, "amber", (0, 1))])


@pytest.fixture(scope="module")
def explained(explained_study: Plan, synthetic_contract: Contract, case_id: str) -> Explained:
    return explain_case(STUDY, explained_study.home, {"synthetic": synthetic_contract}, case_id)


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


def test_the_page_says_all_and_fetches_nothing(explained_study: Plan, explained: Explained, case_id: str) -> None:
    assert explained.path == explained_study.home.reports / "explanations" / explained_study.model_version / f"{case_id}.html"
    assert [path.name for path in explained.path.parent.iterdir()] == [explained.path.name]
    page = explained.path.read_text(encoding="utf-8")
    assert checked(page).found.count("img") == len(explained.found.slides)
    (fold,) = explained.found.networks.folds
    for said in (
        case_id,
        explained_study.model_version,
        f"snapshot {explained_study.snapshot_id}",
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


def test_errors_say_what_to_do(
    explained_study: Plan, synthetic_contract: Contract, case_id: str, tmp_path: Path, data: StudyData
) -> None:
    contracts = {"synthetic": synthetic_contract}
    with pytest.raises(CaseMissingError, match="no row in snapshot"):
        explain_case(STUDY, explained_study.home, contracts, "SYN-AA-9999")
    with Lake(explained_study.home).reader() as connection:
        known = {row[0] for row in connection.execute("SELECT case_id FROM cases").fetchall()}
    without = min(known - set(data.training_set.cases["case_id"]), default=None)
    if without is not None:
        with pytest.raises(CaseUnusableError, match="with endpoint os"):
            explain_case(STUDY, explained_study.home, contracts, without)
    other = STUDY.model_copy(update={"name": "never"})
    with pytest.raises(ModelMissingError, match=r"no trained version.*mice run --study never"):
        explain_case(other, explained_study.home, contracts, case_id)
    with pytest.raises(PagePlaceError, match="in the home"):
        explain_case(STUDY, explained_study.home, contracts, case_id, output=explained_study.home.root / "page.html")
    assert find_trained(STUDY, explained_study.home, ["synthetic"]).is_current


def test_half_trained_and_older_versions(explained_study: Plan, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(explained_study.home.root / "store", home.root / "store")
    shutil.copytree(explained_study.folder, home.models / explained_study.model_version)
    found = find_trained(STUDY, home, ["synthetic"])
    assert (found.version, found.is_current, found.snapshot_id) == (
        explained_study.model_version,
        True,
        explained_study.snapshot_id,
    )
    shutil.copytree(explained_study.folder, home.models / "older")
    path = network_path(home.models / explained_study.model_version, 1, "amber", 1)
    path.with_name(path.name + ".json").unlink()
    assert (find_trained(STUDY, home, ["synthetic"]).version, find_trained(STUDY, home, ["synthetic"]).is_current) == (
        "older",
        False,
    )
    shutil.rmtree(home.models / "older")
    with pytest.raises(ModelMissingError, match="1 versions, none with all of its networks"):
        find_trained(STUDY, home, ["synthetic"])


def test_erasing_a_case_takes_its_pages(
    explained_study: Plan, case_id: str, synthetic_contract: Contract, tmp_path: Path
) -> None:
    home = Home(shutil.copytree(explained_study.home.root, tmp_path / "home"))
    contracts = {"synthetic": synthetic_contract}
    own = explain_case(STUDY, home, contracts, case_id).path
    other_id = pl.read_parquet(explained_study.folder / "predictions.parquet").filter(pl.col("case_id") != case_id)["case_id"][0]
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


def test_the_command(explained_study: Plan, case_id: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def call(*arguments: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(app, ["explain", *arguments, "--home", str(explained_study.home.root)])

    page = tmp_path / "pages" / "page.html"
    with caplog.at_level("DEBUG"):
        done = call(case_id, "--study", "tiny", "--output", str(page))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["path"], said["model_version"], said["held_out"]) == (str(page), explained_study.model_version, True)
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
