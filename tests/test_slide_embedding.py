"""The embedding run: slides of a contract to bags in the store; restarted, refused, damaged, erased; from file to prediction."""

import json
import os
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml
from cohort_runs import SMALL, predictions
from safetensors.numpy import load_file
from typer.testing import CliRunner

from dagster_project.launch import open_instance
from dagster_project.resources import Platform
from faults.slide_cohorts import CONTRACT, contract, write_slides, write_tables
from feature_store.bag_reader import BagReader
from feature_store.bag_record import BagRecord
from feature_store.contract import Contract
from feature_store.contract.deidentify import Deidentify
from feature_store.deidentify.key import load_key
from feature_store.deidentify.pseudonyms import Pseudonyms
from feature_store.doctor_store import diagnose_embeddings
from feature_store.erase.execute import erase_case
from feature_store.erase.plan import plan_erasure
from feature_store.erase.slide_marks import unmarked
from feature_store.erase.tombstones import KEY_NAME
from feature_store.errors import EncoderError, SlideReadError, StoreMissingError
from feature_store.home import Home
from feature_store.ingest.stage import Staged, stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.slides.decoding import Decoders
from feature_store.slides.picture import MAX_BYTES
from feature_store.slides.prepare import prepare
from feature_store.slides.slide_file import slide_sha256
from mice_cli.main import app
from mice_model.slide_embedding import worker as worker_module
from mice_model.slide_embedding.classical import ClassicalEncoder
from mice_model.slide_embedding.run import RunConfig, embed_contract
from mice_model.slide_embedding.slide import batches

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")

IN_LINE = RunConfig(num_workers=1, num_decoders=0)
WSI = Path(os.environ.get("MICE_DATA", "")) / "raw" / "wsi"
SCANNED = ["S-0001", "S-0002", "S-0003"]


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    write_tables(folder, [*SCANNED, "S-0004"])
    write_slides(folder, SCANNED)
    return folder


@pytest.fixture(scope="module")
def done(landing: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which all slides are embedded. For reading only."""
    home = Home(tmp_path_factory.mktemp("done"))
    embed_contract(contract(), landing, home, IN_LINE)
    return home


@pytest.fixture
def home(done: Home, tmp_path: Path) -> Home:
    shutil.copytree(done.root, tmp_path / "home")
    return Home(tmp_path / "home")


def files(home: Home) -> dict[str, bytes]:
    """Return what is kept of all slides, by path."""
    kept = (path for path in home.embeddings.glob("*/*") if path.is_file())
    return {str(path.relative_to(home.embeddings)): path.read_bytes() for path in kept}


def bags(staged: Staged) -> pl.DataFrame:
    return staged.table("patch_bags").sort("slide_id")


def reasons(staged: Staged) -> list[str]:
    return staged.table("quarantine")["reason"].to_list()


def test_slides_become_bags(landing: Path, done: Home, home: Home) -> None:
    assert bags(stage(contract(), landing, Home(home.root / "empty"))).is_empty()
    staged = stage(contract(), landing, home)
    rows = bags(staged)
    assert rows["slide_id"].to_list() == SCANNED
    assert rows["encoder_sha256"].unique().to_list() == [ClassicalEncoder().weight_sha256]
    with BagReader(home.bags) as reader:
        for row in rows.iter_rows(named=True):
            record = BagRecord(**{name: row[name] for name in BagRecord.__dataclass_fields__})
            (file,) = done.embeddings.glob(f"*/{row['source_sha256']}.safetensors")
            kept = load_file(file)
            np.testing.assert_array_equal(reader.read(record, verify=True), kept["features"])
            np.testing.assert_array_equal(reader.coordinates(record), kept["coords"])
            manifest = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
            assert manifest["num_patches"] == len(kept["features"]) > 1
            assert (manifest["mpp_origin"], manifest["grid"]["size_px"]) == ("header", 256)
            assert manifest["mpp"] == pytest.approx(0.5)
            assert file.with_suffix(".jpg").stat().st_size <= MAX_BYTES
    assert staged.table("slides")["mpp"].to_list() == pytest.approx([0.5] * 3)


def test_what_is_done_is_not_done_again(landing: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(home)
    shutil.copy(landing / "wsi" / "S-0001.svs", home.root / "again.tiff")

    def embed_slide(*_: object, **__: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(worker_module, "embed_slide", embed_slide)
    report = embed_contract(contract(), landing, home, IN_LINE)
    assert (len(report.embedded), any(outcome.is_new for outcome in report.outcomes)) == (3, False)
    assert files(home) == before


def test_processes_and_shards_change_no_bit(landing: Path, home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    first = embed_contract(contract(), landing, other, RunConfig(num_workers=2, num_decoders=1, shard=(0, 2)))
    second = embed_contract(contract(), landing, other, RunConfig(num_workers=1, num_decoders=2, shard=(1, 2)))
    assert sorted(each.name for report in (first, second) for each in report.embedded) == SCANNED
    assert files(other) == files(home)
    for each in (other, home):
        stage(contract(), landing, each)
    shards = [{path.name: path.read_bytes() for path in each.bags.iterdir()} for each in (other, home)]
    assert shards[0] == shards[1]
    assert len(shards[0]) == 1


def test_half_of_a_slide_is_no_slide(landing: Path, done: Home, home: Home) -> None:
    (folder,) = home.embeddings.glob("classical-*")
    manifests = sorted(path for path in folder.glob("*.json") if path.name != "encoder.json")
    manifests[0].unlink()  # killed before it was written
    manifests[1].write_text(manifests[1].read_text(encoding="utf-8")[:50], encoding="utf-8")  # no run of ours leaves this
    staged = stage(contract(), landing, home)
    assert bags(staged).height == 1
    assert sum("no embedding yet" in reason for reason in reasons(staged)) == 2
    assert sum(outcome.is_new for outcome in embed_contract(contract(), landing, home, IN_LINE).embedded) == 2
    assert files(home) == files(done)
    assert bags(stage(contract(), landing, home)).height == 3


def test_a_damaged_embedding_is_noticed(landing: Path, home: Home) -> None:
    path = min(home.embeddings.glob("*/*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    staged = stage(contract(), landing, home)
    assert bags(staged).height == 2
    assert any("an embedding that is missing or changed" in reason and "mice embed" in reason for reason in reasons(staged))


def test_an_encoder_of_another_hash_does_not_mix_in(landing: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    min(home.embeddings.glob("*/*.safetensors")).with_suffix(".json").unlink()
    monkeypatch.setattr(ClassicalEncoder, "normalisation", "another")
    with pytest.raises(EncoderError, match="expected those that made the embeddings"):
        embed_contract(contract(), landing, home, IN_LINE)


def test_another_recipe_or_scale_embeds_anew(landing: Path, home: Home) -> None:
    coarse = contract(patches={"mpp": 1.0, "size_px": 128})
    assert sum(outcome.is_new for outcome in embed_contract(coarse, landing, home, IN_LINE).embedded) == 3
    assert len(list(home.embeddings.glob("classical-*"))) == 2
    near = contract(slide_mpp=0.52)  # the headers say .5, which is near enough and goes first
    report = embed_contract(near, landing, home, IN_LINE)
    assert (sum(each.is_new for each in report.embedded), report.mpp_origins) == (3, {"header": 3})
    wrong = contract(slide_mpp=0.25)
    report = embed_contract(wrong, landing, home, IN_LINE)
    assert ["expected 0.25 by the contract" in (each.manifest.refused or "") for each in report.outcomes] == [True] * 3


def test_slides_that_are_refused_say_why_and_the_others_go_on(landing: Path, tmp_path: Path) -> None:
    folder, home = tmp_path / "landing", Home(tmp_path / "home")
    write_tables(folder, ["S-0001", "S-0005", "S-0006"])
    write_slides(folder, ["S-0001"])
    (folder / "wsi" / "S-0005.svs").write_bytes(b"no slide")
    (folder / "wsi" / "S-0006.svs").write_bytes((folder / "wsi" / "S-0001.svs").read_bytes()[:3_000])
    report = embed_contract(contract(), folder, home, IN_LINE)
    assert [outcome.name for outcome in report.refused] == ["S-0005", "S-0006"]
    staged = stage(contract(), folder, home)
    assert bags(staged)["slide_id"].to_list() == ["S-0001"]
    states = staged.table("modality_matrix").filter(pl.col("modality") == "slide").sort("case_id")
    assert states["state"].to_list() == ["present", "failed_check", "failed_check"]
    assert "slide S-0005: no format that OpenSlide" in states["reason"][1]
    shutil.copy(landing / "wsi" / "S-0002.svs", folder / "wsi" / "S-0005.svs")
    assert [outcome.name for outcome in embed_contract(contract(), folder, home, IN_LINE).refused] == ["S-0006"]


def test_a_slide_that_kills_its_decoder_is_refused(landing: Path) -> None:
    path = landing / "wsi" / "S-0001.svs"
    found = prepare(path, contract().slides[0].patches, 0.25)
    with Decoders(1) as decoders:
        next(decoders.patches(path, found.grid, 1.0))
        for process in list(decoders._pool._processes.values()):
            process.kill()
        with pytest.raises(SlideReadError, match="a decoder died over it"):
            list(decoders.patches(path, found.grid, 1.0))
        assert sum(len(places) for places, _ in decoders.patches(path, found.grid, 1.0)) == len(found.grid.xy)


def test_erasing_a_case_takes_its_embedding(landing: Path, home: Home) -> None:
    publish_cohort(Lake(home), stage(contract(), landing, home), "scans")
    digest = bags(stage(contract(), landing, home)).filter(pl.col("slide_id") == "S-0002")["source_sha256"].item()
    before = files(home)
    assert erase_case(home, "S-0002").proof.is_clean
    left = files(home)
    assert {name for name in before if name not in left} == {name for name in before if digest in name}
    assert not list(home.embeddings.rglob(f"*{digest}*"))
    report = embed_contract(contract(), landing, home, IN_LINE)
    assert [outcome.name for outcome in report.outcomes] == ["S-0001", "S-0003"]


def of_slide(home: Home, digest: str) -> list[Path]:
    return sorted(path for path in home.embeddings.rglob(f"*{digest}*") if path.is_file())


def test_erasing_a_case_takes_what_was_embedded_and_never_published(landing: Path, home: Home) -> None:
    embed_contract(contract(patches={"mpp": 1.0, "size_px": 128}), landing, home, IN_LINE)  # another recipe
    digest = slide_sha256(landing / "wsi" / "S-0002.svs")
    folder = next(home.embeddings.glob("classical-*"))
    (folder / f".{digest}.safetensors.0123.partial").write_bytes(b"what a killed run left")
    before = files(home)
    assert not Lake(home).exists
    assert plan_erasure(home, "S-0002").embedded == tuple(path for path in of_slide(home, digest))
    with pytest.raises(StoreMissingError):
        plan_erasure(home, "S-0004")  # has no slide
    done = erase_case(home, "S-0002")
    assert done.proof.is_clean
    assert of_slide(home, digest) == []
    left = files(home)
    assert {name: data for name, data in before.items() if digest not in name} == left
    assert len([name for name in left if name.endswith(".jpg")]) == 2 * 2
    report = embed_contract(contract(), landing, home, IN_LINE)
    assert [(outcome.name, outcome.is_new) for outcome in report.outcomes] == [("S-0001", False), ("S-0003", False)]
    assert of_slide(home, digest) == []
    staged = stage(contract(), landing, home)
    assert sorted(staged.table("cases")["case_id"]) == ["S-0001", "S-0003", "S-0004"]
    assert erase_case(home, "S-0002").proof.is_clean  # again, with a cohort staged


def test_erasing_by_an_alias_or_a_pseudonym_takes_the_embedding(landing: Path, tmp_path: Path) -> None:
    folder, home = tmp_path / "landing", Home(tmp_path / "home")
    shutil.copytree(landing, folder)
    (folder / "aliases.csv").write_text("case,other\nS-0001,REG-77001\n", encoding="utf-8")
    alias = {"path": "aliases.csv", "case_id": {"column": "case"}, "alias": {"column": "other"}, "source": "registry"}
    plain = Contract.model_validate(yaml.safe_load(CONTRACT) | {"aliases": [alias]})
    hidden = plain.model_copy(update={"deidentify": Deidentify()})
    first, third = (slide_sha256(folder / "wsi" / f"S-000{number}.svs") for number in (1, 3))
    embed_contract(plain, folder, home, IN_LINE)
    embed_contract(hidden, folder, home, IN_LINE)  # nothing is embedded again, and every slide is marked by its pseudonym too
    pseudonym = Pseudonyms(load_key(home)).of("case", "S-0003")
    assert erase_case(home, pseudonym).proof.is_clean
    assert of_slide(home, third) == []
    assert len(embed_contract(hidden, folder, home, IN_LINE).outcomes) == 2
    assert erase_case(home, "REG-77001").proof.is_clean
    assert of_slide(home, first) == []
    again = embed_contract(plain, folder, home, IN_LINE)  # who gives up de-identification has S-0003 again
    assert [outcome.name for outcome in again.outcomes] == ["S-0002", "S-0003"]
    kept = [path for path in home.root.rglob("*") if path.is_file()]
    assert not any(b"S-0001" in path.read_bytes() or b"REG-77001" in path.read_bytes() for path in kept)


def test_embeddings_of_before_there_were_marks_are_read_counted_and_marked(landing: Path, home: Home) -> None:
    shutil.rmtree(home.embeddings / "marks")
    assert bags(stage(contract(), landing, home)).height == 3
    publish_cohort(Lake(home), stage(contract(), landing, home), "scans")
    (found,) = diagnose_embeddings(home)
    assert (found.state, found.found[:39]) == ("warn", "nobody can tell whose 3 of 3 embedded s")
    assert plan_erasure(home, "S-0002").num_unmarked == 3
    before = files(home)
    embed_contract(contract(), landing, home, IN_LINE)
    assert files(home) == before
    assert [one.state for one in diagnose_embeddings(home)] == ["pass"]
    (home.root / KEY_NAME).unlink()  # no tombstone yet: another is made, and the old marks say nothing
    assert unmarked(home) == (3, 3)
    embed_contract(contract(), landing, home, IN_LINE)
    assert unmarked(home) == (0, 3)


def test_what_is_kept_names_nobody(home: Home) -> None:
    assert not any(name in path or name.encode() in data for path, data in files(home).items() for name in SCANNED)


def test_a_deidentified_cohort_is_embedded_without_a_name(
    landing: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, hidden = Home(tmp_path / "home"), contract().model_copy(update={"deidentify": Deidentify()})
    shutil.copytree(landing, tmp_path / "landing")
    (tmp_path / "landing" / "wsi" / "S-0004.svs").write_bytes(b"no slide")
    with caplog.at_level("INFO"):
        report = embed_contract(hidden, tmp_path / "landing", home, IN_LINE)
        rows = bags(stage(hidden, tmp_path / "landing", home))
    assert rows.height == 3
    assert not set(rows["slide_id"]) & set(SCANNED)
    said = caplog.text + " ".join(f"{each.name} {each.manifest.refused}" for each in report.outcomes)
    assert "no format that OpenSlide" in said
    kept = " ".join(path.name for path in home.root.rglob("*"))
    assert not any(name in said or name in kept for name in (*SCANNED, "S-0004"))


def test_batches_are_of_one_size_whatever_the_pieces() -> None:
    def pieces(sizes: list[int]):  # type: ignore[no-untyped-def]
        begin = 0
        for size in sizes:
            where = np.arange(begin, begin + size)
            yield where, where[:, None, None, None].astype(np.uint8)
            begin += size

    for sizes in ([1] * 21, [21], [5, 16], [16, 5], [3, 9, 9]):
        found = list(batches(pieces(sizes), 8))
        assert [len(where) for where, _ in found] == [8, 8, 5]
        assert np.concatenate([where for where, _ in found]).tolist() == list(range(21))
        assert all((pixels[:, 0, 0, 0] == where).all() for where, pixels in found)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"patches": {"mpp": 0.5}}, "whole slides need patches.size_px"),
        ({"patches": {"size_px": 256}}, "and patches.mpp or patches.magnification"),
        ({"patches": {"mpp": 0.5, "size_px": 256, "overlap_px": 256}}, "would never move on"),
        ({"arrays": {"features": "feats"}}, "these are whole slides"),
        ({"files": "wsi/*.h5", "slide_mpp": 0.5}, "are of whole slides"),
        ({"files": "wsi/*.xyz"}, "or of a slide"),
    ],
)
def test_a_contract_of_slides_is_checked(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contract(**({"files": "wsi/*.svs"} | keys))


def test_the_command_embeds_reports_and_exits(landing: Path, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "scans.yaml"
    file.write_text(CONTRACT, encoding="utf-8")
    arguments = ["embed", str(file), "--landing", str(landing), "--home", str(home.root), "--workers", "1"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout.splitlines()[-1])
    assert (said["slides"], said["embedded"], said["new"], said["refused"]) == (3, 3, 0, 0)
    assert CliRunner().invoke(app, [*arguments, "--shard", "3/2"]).exit_code == 2
    missing = CliRunner().invoke(app, ["embed", "nowhere", "--home", str(home.root)])
    assert missing.exit_code == 2


def test_validate_embeds_nothing_and_says_what_is_missing(landing: Path, home: Home, tmp_path: Path) -> None:
    file = tmp_path / "scans.yaml"
    file.write_text(CONTRACT, encoding="utf-8")
    arguments = ["cohort", "validate", str(file), "--landing", str(landing), "--home"]
    found = CliRunner().invoke(app, [*arguments, str(home.root)])
    assert found.exit_code == 0, found.output
    found = CliRunner().invoke(app, [*arguments, str(tmp_path / "empty")])
    assert found.exit_code == 1
    assert "no embedding yet" in found.output
    assert not (tmp_path / "empty").exists()


STUDY = SMALL | {
    "name": "scans",
    "description": "slides to predictions",
    "contracts": ["scans"],
    "split": "scans-2fold",
    "evaluate": ["larynx", "tongue"],
    "features": {"modalities": ["slide", "clinical"], "patches_per_case": 32},
}
REAL = {"TCGA-CR-7395": "tcga-cr-7395-01a-01-ts1.svs", "CMU-0001": "cmu-1-small-region.svs"}


@pytest.mark.skipif(not (WSI / "broken.svs").is_file(), reason="no real slides: set MICE_DATA to the landing folder")
def test_real_slides_go_from_file_to_prediction_by_contract_alone(tmp_path: Path) -> None:
    folder, home = tmp_path / "landing", Home(tmp_path / "home")
    others = [f"S-{number:04}" for number in range(1, 41)]
    write_tables(folder, [*REAL, "S-0099", *others])
    write_slides(folder, others[:2])
    for case_id, name in REAL.items():
        shutil.copy(WSI / name, folder / "wsi" / f"{case_id}.svs")
    shutil.copy(WSI / "broken.svs", folder / "wsi" / "S-0099.svs")
    home.cohorts.mkdir(parents=True)
    # the frozen slide's header is silent, so the contract speaks for it
    text = CONTRACT.replace("patches: {mpp: 0.5,", "slide_mpp: 0.5\n    patches: {mpp: 1.0,")
    (tmp_path / "scans.yaml").write_text(text, encoding="utf-8")
    added = CliRunner().invoke(
        app, ["cohort", "add", str(tmp_path / "scans.yaml"), "--landing", str(folder), "--home", str(home.root)]
    )
    assert added.exit_code == 0, added.output
    home.studies.mkdir(exist_ok=True)
    (home.studies / "scans.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    found = predictions(Platform(home_folder=str(home.root), study="scans", num_workers=1))
    rows = {row["case_id"]: row for row in found.iter_rows(named=True)}
    for case_id in REAL:
        assert np.isfinite(rows[case_id]["risk_score"])
        assert "slide" not in rows[case_id]["missing_modalities"]
    assert "slide" in rows["S-0099"]["missing_modalities"]
    with Lake(home).reader() as connection:
        query = "SELECT case_id, num_patches, encoder, mpp FROM patch_bags JOIN slides USING (slide_id, case_id)"
        stored = {row[0]: row[1:] for row in connection.execute(query).fetchall()}
    assert stored["TCGA-CR-7395"] == (37, "classical", 0.5)
    assert stored["CMU-0001"] == (9, "classical", 0.499)
    with open_instance(home.dagster) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("slide_embeddings"))
    metadata = event.asset_materialization.metadata
    assert metadata["slides"].value == 5
    assert "no format that OpenSlide" in metadata["refused"].value
    assert metadata["microns_per_pixel_by"].value in {"header 3, contract 1", "contract 1, header 3"}
    assert 1_000 < len(metadata["slide"].value) <= 60_000
