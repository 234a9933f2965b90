"""Rows 11 and 21: the GDC withdraws cases, and manifests that lie.

Nothing of this leaves the machine: gdc_server.py stands in for the GDC.
"""

from faults.downloads import HASTE, remote
from faults.gdc_data import Content, Hit, file_hit, made_id, replayed_project
from faults.gdc_server import GdcServer
from faults.report import Found, Trial
from feature_store.errors import ManifestError
from feature_store.gdc.api import Gdc
from feature_store.gdc.data_types import data_types
from feature_store.gdc.download import download
from feature_store.gdc.fetch import Found as Asked
from feature_store.gdc.fetch import fetch
from feature_store.gdc.http import Http
from feature_store.gdc.landing import Landing
from feature_store.gdc.manifest import RemoteFile, read_manifest
from feature_store.gdc.sync import sync


def withdrawn_cases(trial: Trial) -> Found:
    """Row 11. One case vanishes with its files, one is annotated, one comes back."""
    found = Found({"cases": trial.pick(40, 1_000), "withdrawn": 0, "flagged": 0, "files_left_out": 0})
    landing = Landing(trial.folder / "landing")
    with GdcServer(**replayed_project(int(found.counts["cases"]))) as server:
        gdc, kinds = Gdc(Http(server.address, patience=HASTE)), data_types([])
        done = fetch(gdc, landing, Asked.ask(gdc, ["REPLAY-ONE"], kinds), kinds)
        found.expect(len(done.fetched) == found.counts["cases"], f"fetched {len(done.fetched)} files")
        gone, noted = server.hits["cases"][3], server.hits["cases"][5]
        server.hits["cases"].remove(gone)
        files = [hit for hit in server.hits["files"] if hit["cases"][0]["case_id"] == gone["case_id"]]
        server.hits["files"] = [hit for hit in server.hits["files"] if hit not in files]
        server.hits["annotations"].append(redaction(noted, "Subject withdrew consent"))
        found.add("withdrawn", 2)
        first = sync(gdc, landing)
        flags = {row.case_id for row in landing.redacted()}
        found.add("flagged", len(flags))
        found.add("files_left_out", len(first.withdrawn))
        expected = {gone["submitter_id"], noted["submitter_id"]}
        found.expect(flags == expected, f"flagged {sorted(flags)}, expected {sorted(expected)}")
        found.expect({row.file_id for row in first.withdrawn} == {hit["file_id"] for hit in files}, "other files left the list")
        before = _lists(landing)
        again = sync(gdc, landing)
        found.expect(_lists(landing) == before and not again.flagged, "a second comparison changed something")
        server.hits["cases"].append(gone)
        lifted = {row.case_id for row in sync(gdc, landing).lifted}
        found.expect(lifted == {gone["submitter_id"]}, f"released again {sorted(lifted)}, expected {gone['submitter_id']}")
    return found


def redaction(case: Hit, category: str, **values: str) -> Hit:
    """Return an annotation by which the GDC redacts a case; `values` replace fields."""
    note = {"annotation_id": made_id(f"{case['case_id']} {category}"), "classification": "Redaction", "category": category}
    of_case = {"entity_type": "case", "case_submitter_id": case["submitter_id"], "status": "Approved"}
    return {**note, **of_case, **values}


def _lists(landing: Landing) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (landing.root / "gdc").iterdir() if path.is_file()}


def lying_manifests(trial: Trial) -> Found:
    """Row 21. A line that must not be followed refuses the manifest and is named; a file that is not as listed never shows up."""
    good = remote(file_hit("good.tsv", Content("good", 1_000)))
    line = "\t".join((good.file_id, good.file_name, good.md5, str(good.num_bytes), "released"))
    other = made_id("another file")
    bad = {
        "name with a way up": line.replace("good.tsv", "../good.tsv"),
        "absolute name": line.replace("good.tsv", "/tmp/good.tsv"),
        "name with a backslash": line.replace("good.tsv", "..\\good.tsv"),
        "hidden name": line.replace("good.tsv", ".good.tsv"),
        "name of a folder": line.replace("good.tsv", ".."),
        "no name": line.replace("good.tsv", ""),
        "long name": line.replace("good.tsv", "x" * 300),
        "control character": line.replace("good.tsv", "good\x1b.tsv"),
        "id with a way up": line.replace(good.file_id, "../../etc"),
        "no md5": line.replace(good.md5, "d41d8cd98f00"),
        "no size": line.replace("\t1000\t", "\t-1\t"),
        "size of another kind": line.replace("\t1000\t", "\t1e3\t"),
        "a value less": line.rpartition("\t")[0],
        "a value more": f"{line}\tmore",
        "the id again with another md5": line.replace(good.md5, good.md5[::-1]),
        "the id again with another size": line.replace("\t1000\t", "\t999\t"),
        "the id again with another name": line.replace("good.tsv", "other.tsv"),
    }
    found = Found({"manifests": len(bad), "refused": 0, "mismatches": 0, "mismatches_refused": 0})
    path = trial.folder / "manifest.txt"
    for what, text in bad.items():
        path.write_text("\n".join(["id\tfilename\tmd5\tsize\tstate", line.replace(good.file_id, other), line, text, ""]))
        try:
            answer = f"read {len(read_manifest(path))} files"
        except ManifestError as error:
            answer = str(error)
        is_refused = ", line 4: " in answer
        found.add("refused", int(is_refused))
        found.expect(is_refused, f"{what}: {answer}")
    content = Content(good.file_id, good.num_bytes)
    for md5, size in ((good.md5[::-1], 1_000), (content.md5, 999), (content.md5, 1_001)):
        file = RemoteFile(good.file_id, good.file_name, md5, size)
        folder = trial.folder / f"{md5}-{size}"
        with GdcServer(contents={good.file_id: content}) as server:
            done = download(Http(server.address, patience=HASTE), [file], folder)
        found.add("mismatches")
        found.add("mismatches_refused", int(len(done.failed) == 1 and not (folder / file.path).exists()))
        found.expect(len(done.failed) == 1, f"size {size}, md5 {md5}: downloaded")
    return found
