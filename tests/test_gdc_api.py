"""The GDC's API: filters, pages, refusals, and what is tried again. The replay server answers as the documentation does."""

import json
import logging

import pytest

from faults.downloads import HASTE
from faults.gdc_data import catalogue, replayed_project
from faults.gdc_server import Fault, GdcServer
from feature_store.errors import GdcError, GdcUnavailableError
from feature_store.gdc import api
from feature_store.gdc.api import Gdc
from feature_store.gdc.filters import all_of, any_of, equals, one_of
from feature_store.gdc.http import Http, Patience, retry_after_s
from feature_store.gdc.token import Token, read_token

# As documented in the API's user guide, "Annotations Endpoint".
ANNOTATION = {
    "category": "Item flagged DNU",
    "status": "Approved",
    "entity_id": "fe660d7c-2746-4b50-ab93-b2ed99960553",
    "classification": "CenterNotification",
    "entity_type": "aliquot",
    "annotation_id": "5ddadefe-8b57-5ce2-b8b2-918d63d99a59",
    "case_id": "41b59716-116f-4942-8b63-409870a87e26",
    "entity_submitter_id": "TCGA-DK-A3IM-10A-01D-A20B-01",
}


@pytest.fixture
def server():
    with GdcServer(**replayed_project(25), annotations=[ANNOTATION]) as made:
        yield made


@pytest.fixture
def gdc(server):
    return Gdc(Http(server.address, patience=HASTE))


def test_filters_are_the_documented_json():
    made = all_of(one_of("cases.submitter_id", ("TCGA-CK-4948", "TCGA-D1-A17N")), equals("files.data_type", "Gene Expression"))
    assert made == {
        "op": "and",
        "content": [
            {"op": "in", "content": {"field": "cases.submitter_id", "value": ["TCGA-CK-4948", "TCGA-D1-A17N"]}},
            {"op": "=", "content": {"field": "files.data_type", "value": "Gene Expression"}},
        ],
    }
    assert any_of(made)["op"] == "or"


def test_status(gdc):
    assert gdc.status()["status"] == "OK"


def test_annotations_are_queried_by_what_they_are_about(gdc):
    assert gdc.hits("annotations", one_of("entity_id", [ANNOTATION["entity_id"], "another"])) == [ANNOTATION]
    assert gdc.hits("annotations", equals("classification", "Redaction")) == []


def test_pages_are_followed_to_the_end(gdc, server, monkeypatch):
    monkeypatch.setattr(api, "_PAGE", 10)
    hits = gdc.hits("files", equals("access", "open"), ["file_name"])
    assert len(hits) == 25
    assert len(server.asked_for("files")) == 3
    assert all(set(hit) == {"file_id", "file_name"} for hit in hits)
    assert [hit["file_id"] for hit in hits] == sorted(hit["file_id"] for hit in hits)


def test_an_answer_that_changes_between_pages_is_refused(gdc, server, monkeypatch):
    monkeypatch.setattr(api, "_PAGE", 10)
    page = gdc._page

    def changing(endpoint, asked):
        if asked["from"] == 10:
            server.hits["files"].append({**server.hits["files"][0], "file_id": "00000000"})
        return page(endpoint, asked)

    monkeypatch.setattr(gdc, "_page", changing)
    with pytest.raises(GdcError, match="changed between two pages"):
        gdc.hits("files", equals("access", "open"))


def test_groups_are_expanded_and_nothing_else_comes(server, gdc):
    server.hits["cases"][0]["demographic"] = {"vital_status": "Dead", "demographic_id": "d"}
    server.hits["cases"][0]["diagnoses"] = [{"age_at_diagnosis": 20_000, "treatments": [{"treatment_type": "Surgery"}]}]
    case_id = server.hits["cases"][0]["submitter_id"]
    (case,) = gdc.hits("cases", equals("submitter_id", case_id), ["submitter_id"], ["demographic", "diagnoses"])
    assert case["demographic"]["vital_status"] == "Dead"
    assert case["diagnoses"] == [{"age_at_diagnosis": 20_000}]
    assert "project" not in case


def test_many_values_are_asked_for_in_groups(gdc, server, monkeypatch):
    monkeypatch.setattr(api, "_VALUES_PER_QUERY", 10)
    ids = [hit["submitter_id"] for hit in server.hits["cases"]]
    assert len(list(gdc.hits_of("cases", "submitter_id", [*ids, *ids], ["submitter_id"]))) == 25
    assert len(server.asked_for("cases")) == 3


def test_a_manifest_by_query_names_all_files(gdc, server):
    files = gdc.manifest(equals("cases.project.project_id", "REPLAY-ONE"))
    assert {file.file_id for file in files} == {hit["file_id"] for hit in server.hits["files"]}
    assert {(file.md5, file.num_bytes) for file in files} == {(hit["md5sum"], hit["file_size"]) for hit in server.hits["files"]}


def test_newest_versions_name_what_was_released_once(gdc, server):
    old, new, never = (hit["file_id"] for hit in server.hits["files"][:3])
    server.newest_versions[old] = new
    assert gdc.newest_versions([old, new]) == {old: new, new: new}
    server.misbehave(f"files/versions/{','.join(sorted([old, never]))}", Fault(status=404))
    server.misbehave(f"files/versions/{never}", Fault(status=404))
    assert gdc.newest_versions([old, never]) == {old: new}


@pytest.mark.parametrize("fault", [Fault(status=503, retry_after="0"), Fault(status=429), Fault(hang_after=0)])
def test_a_busy_server_is_asked_again(gdc, server, fault):
    server.misbehave("status", fault)
    if fault.hang_after is None:
        assert gdc.status()["status"] == "OK"
        assert len(server.asked_for("status")) == 2


def test_a_server_that_stays_busy_is_given_up(gdc, server):
    server.misbehave("status", Fault(status=503, retry_after="86400"), is_lasting=True)
    with pytest.raises(GdcUnavailableError, match="status 503"):
        gdc.status()
    assert len(server.asked_for("status")) == HASTE.num_tries


@pytest.mark.parametrize(("fault", "said"), [(Fault(status=400), "status 400"), (Fault(is_html=True), "expected JSON")])
def test_a_refusal_is_final(gdc, server, fault, said):
    server.misbehave("files", fault)
    with pytest.raises(GdcError, match=said):
        gdc.hits("files", equals("access", "open"))
    assert len(server.asked_for("files")) == 1


def test_nobody_listening_is_unavailable():
    with pytest.raises(GdcUnavailableError, match="broken off"):
        Gdc(Http("http://127.0.0.1:1", patience=HASTE)).status()


@pytest.mark.parametrize("address", ["", "ftp://api.gdc.cancer.gov", "https://", "file:///etc"])
def test_addresses_are_of_the_web(address):
    with pytest.raises(GdcError, match="expected one such as"):
        Http(address)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers, seconds):
    assert retry_after_s(headers) == seconds


def test_waits_double_are_random_and_capped():
    patience = Patience(first_wait_s=1.0, longest_wait_s=120.0)
    waits = [patience.wait_s(3, None) for _ in range(100)]
    assert 2.0 <= min(waits) < max(waits) <= 4.0
    assert patience.wait_s(1, 50.0) == 50.0
    assert patience.wait_s(1, 1e9) == patience.wait_s(40, None) == 120.0


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text("secret-0123456789\n")
    path.chmod(0o600)
    return path


def test_the_token_goes_with_data_only_and_never_to_another_host(server, token_file, tmp_path):
    http = Http(server.address, read_token(token_file), HASTE)
    file_id = server.hits["files"][0]["file_id"]
    with GdcServer(contents=server.contents) as elsewhere:
        server.misbehave(f"data/{file_id}", Fault(), Fault(redirect_to=elsewhere.address))
        for _ in range(2):
            with http.answer("GET", f"data/{file_id}", is_data=True) as answer:
                assert answer.content
        Gdc(http).status()
        assert server.asked_for(f"data/{file_id}")[0]["X-Auth-Token"] == "secret-0123456789"
        assert "X-Auth-Token" not in server.asked_for("status")[0]
        assert "X-Auth-Token" not in elsewhere.asked_for(f"data/{file_id}")[0]


def test_the_token_does_not_show(server, token_file, caplog):
    caplog.set_level(logging.DEBUG)
    token = read_token(token_file)
    http = Http(server.address, token, HASTE)
    server.misbehave("data/secret-0123456789", Fault(status=403))
    with pytest.raises(GdcError) as refused, http.answer("GET", "data/none", is_data=True):
        pass
    assert "secret" not in f"{token!r} {token} {http!r} {vars(http)} {refused.value} {caplog.text}"
    assert Token("abc").hidden_in("you sent abc") == "you sent (token)"


def test_a_token_that_others_may_read_is_refused(token_file):
    token_file.chmod(0o640)
    with pytest.raises(GdcError, match="expected 600"):
        read_token(token_file)


@pytest.mark.parametrize("text", ["", "two words", "line\nline", "é"])
def test_a_file_without_one_token_is_refused(token_file, text):
    token_file.write_text(text)
    with pytest.raises(GdcError, match="not one token"):
        read_token(token_file)


def test_a_token_never_travels_unencrypted(token_file):
    with pytest.raises(GdcError, match="unencrypted"):
        Http("http://api.gdc.cancer.gov", read_token(token_file))


def test_a_real_catalogue_is_paged_through(real_landing):
    hits, contents = catalogue(real_landing / "raw" / "gdc_manifests" / "GCv36" / "TCGA-ACC.tsv.gz", max_file_bytes=16)
    with GdcServer(hits, contents) as server:
        gdc = Gdc(Http(server.address, patience=HASTE))
        found = gdc.hits("files", equals("analysis.workflow_type", "HTSeq - Counts"), ["file_name", "cases.submitter_id"])
        assert len(found) == sum(hit["analysis"]["workflow_type"] == "HTSeq - Counts" for hit in hits) > 50
        assert len(gdc.manifest(equals("cases.project.project_id", "TCGA-ACC"))) == len(hits)


@pytest.mark.real
def test_documented_answers_are_understood(real_landing):
    examples = [json.loads(path.read_text()) for path in sorted((real_landing / "converted" / "gdc_doc_examples").glob("*.json"))]
    pages = [one["body"] for one in examples if one["kind"] == "response" and "pagination" in json.dumps(one["body"])]
    assert len(pages) > 10
    for page in pages:
        gdc = Gdc(Http("http://127.0.0.1:1"))
        gdc._dict = lambda *_, page=page: page
        hits, total = gdc._page("cases", {})
        assert len(hits) <= total
