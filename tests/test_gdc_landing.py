"""A landing folder filled from the replayed GDC, and kept in step with what the GDC withdraws."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from faults.downloads import HASTE
from faults.gdc_data import Content, file_hit, made_id, replayed_project
from faults.gdc_server import Fault, GdcServer
from faults.report import Trial
from faults.withdrawals import redaction, withdrawn_cases
from feature_store.errors import GdcError, LandingMissingError
from feature_store.gdc.api import Gdc
from feature_store.gdc.data_types import DATA_TYPES, data_types
from feature_store.gdc.fetch import Found, fetch
from feature_store.gdc.http import Http
from feature_store.gdc.landing import Landing
from feature_store.gdc.sync import sync
from mice_cli.main import app

PROJECT = "REPLAY-ONE"
TUMOUR = {
    "submitter_id": "CASE-0000-01A",
    "sample_type": "Primary Tumor",
    "tissue_type": "Tumor",
    "portions": [{"analytes": [{"aliquots": [{"submitter_id": "CASE-0000-01A-11D-A10Y-09"}]}]}],
}
BLOOD = {
    "submitter_id": "CASE-0000-10A",
    "sample_type": "Blood Derived Normal",
    "tissue_type": "Normal",
    "portions": [{"analytes": [{"aliquots": [{"submitter_id": "CASE-0000-10A-01D-A110-09"}]}]}],
}


@pytest.fixture
def server():
    with GdcServer(**replayed_project(12, 500)) as made:
        yield made


@pytest.fixture
def gdc(server):
    return Gdc(Http(server.address, patience=HASTE))


@pytest.fixture
def landing(tmp_path):
    return Landing(tmp_path / "landing")


def filled(gdc, landing, projects=(PROJECT,), names=(), **options):
    kinds = data_types(list(names))
    return fetch(gdc, landing, Found.ask(gdc, list(projects), kinds), kinds, **options)


def add_file(server, name, data_type, workflow_type, *cases, **values):
    content = Content(name, 300)
    hit = file_hit(name, content, data_type=data_type, analysis={"workflow_type": workflow_type}, **values)
    hit["cases"] = list(cases)
    server.hits["files"].append(hit)
    server.contents[hit["file_id"]] = content
    return hit


def lists(landing):
    return {path.name: path.read_bytes() for path in (landing.root / "gdc").iterdir() if path.is_file()}


def test_files_and_cases_are_laid_out(gdc, landing, server):
    assert len(filled(gdc, landing).fetched) == 12
    rows = landing.rows()
    assert [row.case_id for row in rows] == [f"CASE-{i:04}" for i in range(12)]
    assert {(row.data_type, row.workflow_type) for row in rows} == {("Gene Expression Quantification", "STAR - Counts")}
    assert all((landing.root / row.path).stat().st_size == row.num_bytes == 500 for row in rows)
    assert rows[3].path == f"gdc/files/{rows[3].file_id}/{rows[3].file_name}"
    assert (rows[3].sample_id, rows[3].sample_type, rows[3].project_id) == ("CASE-0003-01A", "Primary Tumor", PROJECT)
    assert [case["submitter_id"] for case in landing.cases()] == [f"CASE-{i:04}" for i in range(12)]
    assert landing.redacted() == []
    assert (landing.root / "gdc" / "redacted.tsv").read_text() == "case_id\treason\tannotation_id\tseen_at\n"
    assert (landing.root / "gdc" / "files.tsv").read_text().splitlines()[0].split("\t") == [
        *("file_id", "path", "file_name", "data_category", "data_type", "experimental_strategy", "workflow_type", "data_format"),
        *("md5", "num_bytes", "project_id", "case_id", "sample_id", "sample_type", "aliquot_id"),
    ]


def test_clinical_data_comes_with_the_cases_in_a_lasting_order(gdc, landing, server):
    case = server.hits["cases"][0]
    treatments = [{"treatment_id": "b"}, {"treatment_id": "a"}]
    case["diagnoses"] = [{"diagnosis_id": "2"}, {"diagnosis_id": "1", "age_at_diagnosis": 20_000, "treatments": treatments}]
    case["follow_ups"], case["exposures"], case["demographic"] = [{"days_to_follow_up": 3}], [{}], {"vital_status": "Dead"}
    case["slide_ids"] = ["x", "y"]  # what the GDC lists in another order each time is not kept
    filled(gdc, landing)
    before = lists(landing)
    kept = landing.cases()[0]
    assert [one["diagnosis_id"] for one in kept["diagnoses"]] == ["1", "2"]
    assert [one["treatment_id"] for one in kept["diagnoses"][0]["treatments"]] == ["a", "b"]
    assert kept["demographic"] == {"vital_status": "Dead"}
    assert kept["follow_ups"] == [{"days_to_follow_up": 3}]
    assert "slide_ids" not in kept
    case["diagnoses"].reverse()
    treatments.reverse()
    assert len(filled(gdc, landing).kept) == 12
    assert lists(landing) == before


def test_a_file_of_a_tumour_and_its_normal_is_the_tumours(gdc, landing, server):
    case = {**server.hits["cases"][0], "samples": [BLOOD, TUMOUR]}
    add_file(server, "wxs.maf.gz", "Masked Somatic Mutation", DATA_TYPES[2].workflow_type, case)
    add_file(server, "blood.tsv", "Protein Expression Quantification", "", {**case, "samples": [BLOOD]})
    filled(gdc, landing, names=["mutations", "protein"])
    mutations, blood = sorted(landing.rows(), key=lambda row: row.data_type)
    assert (mutations.sample_id, mutations.sample_type) == ("CASE-0000-01A", "Primary Tumor")
    assert mutations.aliquot_id == "CASE-0000-01A-11D-A10Y-09"
    assert (blood.sample_id, blood.aliquot_id) == ("CASE-0000-10A", "CASE-0000-10A-01D-A110-09")


def test_a_file_of_several_cases_is_of_none(gdc, landing, server):
    add_file(server, "clinical_patient.txt", "Clinical Supplement", "", *server.hits["cases"])
    filled(gdc, landing, names=["clinical"])
    (row,) = landing.rows()
    assert (row.case_id, row.project_id) == ("", PROJECT)


def test_only_open_files_of_the_kinds_asked_for_come(gdc, landing, server):
    case = server.hits["cases"][0]
    add_file(server, "controlled.tsv", "Gene Expression Quantification", "STAR - Counts", case, access="controlled")
    add_file(server, "old.tsv", "Gene Expression Quantification", "HTSeq - Counts", case)
    add_file(server, "slide.svs", "Slide Image", "", case)
    add_file(server, "report.pdf", "Pathology Report", "", case)
    filled(gdc, landing)
    assert len(landing.rows()) == 13
    assert {row.data_type for row in landing.rows()} == {"Gene Expression Quantification", "Pathology Report"}


def test_other_projects_and_kinds_stay_listed_and_what_the_gdc_replaced_does_not(gdc, landing, server):
    case = {
        **server.hits["cases"][0],
        "project": {"project_id": "REPLAY-TWO"},
        "submitter_id": "OTHER-1",
        "case_id": made_id("o"),
    }
    server.hits["cases"].append(case)
    add_file(server, "other.pdf", "Pathology Report", "", case)
    report = add_file(server, "report.pdf", "Pathology Report", "", server.hits["cases"][0])
    filled(gdc, landing, names=["star-counts"])
    filled(gdc, landing, names=["reports"])
    filled(gdc, landing, projects=["REPLAY-TWO"])
    assert len(landing.rows()) == 14
    assert len(landing.cases()) == 13
    server.hits["files"].remove(report)
    filled(gdc, landing, names=["reports"])
    assert report["file_id"] not in {row.file_id for row in landing.rows()}
    assert len(landing.rows()) == 13


def test_lists_stay_as_they_were_while_files_are_missing(gdc, landing, server):
    filled(gdc, landing, names=["star-counts"])
    before = lists(landing)
    report = add_file(server, "report.pdf", "Pathology Report", "", server.hits["cases"][0])
    server.misbehave(f"data/{report['file_id']}", Fault(status=403), is_lasting=True)
    assert [failure.file.file_id for failure in filled(gdc, landing).failed] == [report["file_id"]]
    assert lists(landing) == before
    assert len(filled(gdc, landing, accepts_missing=True).failed) == 1
    assert len(landing.rows()) == 12


@pytest.mark.parametrize(
    ("field", "value"), [("file_name", "../../../etc/cron.d/x"), ("file_id", "../x"), ("md5sum", None), ("file_size", -1)]
)
def test_a_file_that_must_not_be_written_stops_everything(gdc, landing, server, field, value):
    server.hits["files"][5][field] = value
    with pytest.raises(GdcError, match="Nothing was downloaded"):
        filled(gdc, landing)
    assert not landing.root.exists()


def test_a_project_without_cases_is_an_error(gdc):
    with pytest.raises(GdcError, match="REPLAY-NONE"):
        Found.ask(gdc, [PROJECT, "REPLAY-NONE"], data_types([]))


def test_a_kind_that_there_is_not_is_an_error():
    with pytest.raises(GdcError, match="star-count"):
        data_types(["star-count"])


def test_a_list_of_another_kind_is_refused(landing):
    with pytest.raises(LandingMissingError, match="mice gdc fetch"):
        landing.rows()
    (landing.root / "gdc").mkdir(parents=True)
    (landing.root / "gdc" / "files.tsv").write_text("id\tname\n")
    with pytest.raises(GdcError, match="columns"):
        landing.rows()


def test_withdrawn_cases_are_flagged_once_and_until_released_again(tmp_path):
    found = withdrawn_cases(Trial(tmp_path, is_quick=True))
    assert found.problems == []
    assert found.counts == {"cases": 40, "withdrawn": 2, "flagged": 2, "files_left_out": 1}


def test_a_flag_says_why_by_what_and_since_when(gdc, landing, server):
    filled(gdc, landing)
    case = server.hits["cases"][4]
    note = redaction(case, "Subject withdrew consent")
    server.hits["annotations"].append(note)
    done = sync(gdc, landing, now=datetime(2030, 1, 2, tzinfo=UTC))
    (flag,) = done.flagged
    assert vars(flag) == {
        "case_id": "CASE-0004",
        "reason": "redacted: Subject withdrew consent",
        "annotation_id": note["annotation_id"],
        "seen_at": "2030-01-02T00:00:00+00:00",
    }
    assert sync(gdc, landing).flagged == []
    filled(gdc, landing)  # which lists the case as the GDC still has it
    assert landing.redacted() == [flag]


@pytest.mark.parametrize("values", [{"status": "Rescinded"}, {"entity_type": "aliquot"}, {"classification": "Notification"}])
def test_other_annotations_flag_no_case(gdc, landing, server, values):
    filled(gdc, landing)
    server.hits["annotations"].append(redaction(server.hits["cases"][4], "Genotype mismatch", **values))
    assert sync(gdc, landing).flagged == []
    assert landing.redacted() == []


def test_a_withdrawn_file_leaves_the_list_and_a_superseded_one_stays(gdc, landing, server):
    filled(gdc, landing)
    withdrawn, superseded = server.hits["files"][:2]
    del server.hits["files"][:2]
    server.newest_versions[superseded["file_id"]] = made_id("newer")
    server.newest_versions[withdrawn["file_id"]] = withdrawn["file_id"]
    done = sync(gdc, landing)
    assert [row.file_id for row in done.withdrawn] == [withdrawn["file_id"]]
    assert [row.file_id for row in done.superseded] == [superseded["file_id"]]
    assert withdrawn["file_id"] not in {row.file_id for row in landing.rows()}
    assert len(landing.rows()) == 11
    assert done.flagged == []


def test_a_flag_outlives_a_fetch_that_no_longer_lists_the_case(gdc, landing, server):
    filled(gdc, landing)
    gone = server.hits["cases"].pop(0)
    server.hits["files"] = [hit for hit in server.hits["files"] if hit["cases"][0]["case_id"] != gone["case_id"]]
    sync(gdc, landing)
    filled(gdc, landing)
    sync(gdc, landing)
    assert [flag.case_id for flag in landing.redacted()] == [gone["submitter_id"]]


def test_a_gdc_that_has_lost_everything_is_not_believed(gdc, landing, server):
    filled(gdc, landing)
    before = lists(landing)
    server.hits["cases"].clear()
    with pytest.raises(GdcError, match="cases: 12 of 12 gone"):
        sync(gdc, landing)
    assert lists(landing) == before
    assert len(sync(gdc, landing, accepts_many=True).flagged) == 12


def test_a_gdc_that_has_lost_all_files_is_not_believed(gdc, landing, server):
    filled(gdc, landing)
    server.hits["files"].clear()
    with pytest.raises(GdcError, match="files of other cases: 12 of 12 gone"):
        sync(gdc, landing)
    assert len(landing.rows()) == 12


def run(*words):
    return CliRunner().invoke(app, ["gdc", *map(str, words)])


def test_commands_fetch_and_follow(server, tmp_path):
    where = ("--landing", tmp_path, "--api", server.address)
    done = run("fetch", "--project", PROJECT, *where, "--dry-run")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[1].split()[-3:] == ["12", "12", "0.000"]
    assert not any(tmp_path.iterdir())
    done = run("fetch", "--project", PROJECT, *where)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {"fetched": 12, "kept": 0, "failed": 0, "fetched_bytes": 6_000}
    server.hits["annotations"].append(redaction(server.hits["cases"][4], "Subject withdrew consent"))
    done = run("sync", *where)
    assert done.stdout.splitlines()[0] == "withdrawn: CASE-0004: redacted: Subject withdrew consent"
    assert json.loads(done.stdout.splitlines()[-1]) == {"flagged": 1, "lifted": 0, "withdrawn": 0, "superseded": 0}
    server.hits["annotations"].clear()
    assert run("sync", *where).stdout.startswith("released again: CASE-0004")


def test_commands_make_a_manifest_and_download_it(server, tmp_path):
    done = run("manifest", tmp_path / "manifest.txt", "--project", PROJECT, "--data-type", "star-counts", "--api", server.address)
    assert json.loads(done.stdout) == {"files": 12, "bytes": 6_000}
    done = run("download", tmp_path / "manifest.txt", tmp_path / "files", "--api", server.address)
    assert json.loads(done.stdout.splitlines()[-1])["fetched"] == 12
    assert json.loads(run("status", "--api", server.address).stdout)["status"] == "OK"


def test_commands_name_what_is_missing(server, tmp_path):
    file_id = server.hits["files"][0]["file_id"]
    for path in ("data", f"data/{file_id}"):
        server.misbehave(path, Fault(status=403), is_lasting=True)
    where = ("--project", PROJECT, "--landing", tmp_path, "--api", server.address)
    done = run("fetch", *where)
    assert done.exit_code == 1
    assert f"missing: {file_id}/" in done.stdout
    assert "--accept-missing" in done.stdout
    assert not (tmp_path / "gdc" / "files.tsv").exists()
    assert run("fetch", *where, "--accept-missing").exit_code == 1
    assert len(Landing(tmp_path).rows()) == 11


def test_command_unpacks(tmp_path):
    archive = tmp_path / "archive"
    archive.write_bytes(b"PK")
    assert run("unpack", archive, tmp_path / "target").exit_code == 2
    assert not Path(tmp_path / "target").exists()
