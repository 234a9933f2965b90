"""Row 22: downloads that break off in every way, and the process that downloads killed or interrupted at any moment.

Nothing of this leaves the machine: gdc_server.py stands in for the GDC.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults.gdc_data import Content, Hit, file_hit, made_id, replayed_project
from faults.gdc_server import Fault, GdcServer
from faults.report import Found, Trial, say
from feature_store.gdc.download import Downloaded, download
from feature_store.gdc.http import Http, Patience
from feature_store.gdc.manifest import RemoteFile, checked, write_manifest
from feature_store.gdc.transfer import is_whole

# A GDC that is a function call away is waited for accordingly.
HASTE = Patience(first_wait_s=0.01, longest_wait_s=0.05, read_s=0.5, slow_for_s=0.3, slowest_bytes_per_s=1e6)


def remote(hit: Hit) -> RemoteFile:
    """Return the file that a hit announces."""
    return checked(hit["file_id"], hit["file_name"], hit["md5sum"], str(hit["file_size"]), hit["state"])


FAULTS: dict[str, tuple[Fault, ...]] = {
    "reset mid-file": (Fault(reset_after=1_500_000), Fault(reset_after=300_000)),
    "cut short": (Fault(truncate_after=1_000_000), Fault(truncate_after=10)),
    "range ignored": (Fault(truncate_after=1_000_000), Fault(ignores_range=True)),
    "another ETag in between": (Fault(truncate_after=1_000_000, etag='"first"', is_wrong=True), Fault(etag='"second"')),
    "503 with seconds": (Fault(status=503, retry_after="1"), Fault(status=503, retry_after="0")),
    "429 with a date": (Fault(status=429, retry_after="Wed, 21 Oct 2065 07:28:00 GMT"),),
    "slow": (Fault(bytes_per_s=50_000),),
    "hangs": (Fault(hang_after=1_000_000), Fault(hang_after=0)),
    "an HTML page with 200": (Fault(is_html=True), Fault(truncate_after=1_000_000), Fault(is_html=True)),
    "a wrong byte": (Fault(is_wrong=True),),
}
REASONS: dict[str, tuple[Fault, str]] = {
    "forbidden": (Fault(status=403), "--token-file"),
    "not there": (Fault(status=404), "status 404"),
    "busy for ever": (Fault(status=503, retry_after="3600"), "status 503"),
    "HTML for ever": (Fault(is_html=True), "an HTML page with status 200"),
    "wrong for ever": (Fault(is_wrong=True), "md5"),
    "cut for ever": (Fault(truncate_after=0), "broken off"),
    "slow for ever": (Fault(bytes_per_s=50_000), "too slow"),
}


def broken_downloads(trial: Trial) -> Found:
    """Row 22. What passes is got over; what does not is named, leaves nothing that looks whole, and ends the command with 1."""
    found = Found({"faults": len(FAULTS), "whole": 0, "lasting": len(REASONS), "named": 0, "kills": 0, "whole_after_kills": 0})
    content = Content("broken", 3_000_000)
    file = remote(file_hit("broken.svs", content, file_id=made_id("broken")))
    for what, faults in FAULTS.items():
        done, seconds = _with_faults(file, content, trial.folder / what, faults, is_lasting=False)
        is_there = bool(done.fetched) and is_whole(trial.folder / what / file.path, file)
        found.add("whole", int(is_there))
        found.expect(is_there, f"{what}: {[failure.reason for failure in done.failed]}")
        found.expect(seconds < 20, f"{what}: took {seconds:.0f} s")
    for what, (fault, reason) in REASONS.items():
        done, seconds = _with_faults(file, content, trial.folder / what, (fault,), is_lasting=True)
        is_named = len(done.failed) == 1 and reason in done.failed[0].reason and not (trial.folder / what / file.path).exists()
        found.add("named", int(is_named))
        found.expect(is_named, f"{what}: {[failure.reason for failure in done.failed]}")
        found.expect(seconds < 20, f"{what}: took {seconds:.0f} s")
    _exit_status(trial, found)
    _kills(trial, found)
    return found


def _with_faults(
    file: RemoteFile, content: Content, folder: Path, faults: tuple[Fault, ...], *, is_lasting: bool
) -> tuple[Downloaded, float]:
    with GdcServer(contents={file.file_id: content}) as server:
        server.misbehave(f"data/{file.file_id}", *faults, is_lasting=is_lasting)
        start = time.perf_counter()
        done = download(Http(server.address, patience=HASTE), [file], folder)
        return done, time.perf_counter() - start


def _exit_status(trial: Trial, found: Found) -> None:
    """One file of three may not be read: the other two arrive, it is named, and the exit status says so."""
    with GdcServer(**replayed_project(3)) as server:
        files = [remote(hit) for hit in server.hits["files"]]
        server.misbehave("data", Fault(status=403), is_lasting=True)
        server.misbehave(f"data/{files[1].file_id}", Fault(status=403), is_lasting=True)
        ended = command(server, files, trial.folder / "three").communicate()
        last = json.loads(ended[0].splitlines()[-1])
        found.expect(last == {"fetched": 2, "kept": 0, "failed": 1, "fetched_bytes": 4_000}, f"the command ended with {last}")
        found.expect(f"missing: {files[1].path}" in ended[0], "the missing file is not named")


def _kills(trial: Trial, found: Found) -> None:
    """SIGKILL or SIGINT at any moment: what shows up is whole, and the same command goes on until everything is there."""
    rng, content = random.Random(0), Content("killed", 8_000_000)
    file = remote(file_hit("killed.svs", content, file_id=made_id("killed")))
    with GdcServer(contents={file.file_id: content}) as server:
        server.misbehave(f"data/{file.file_id}", Fault(bytes_per_s=8e6), is_lasting=True)
        start = time.perf_counter()
        command(server, [file], trial.folder / "timed").communicate()
        whole_s = time.perf_counter() - start
        for number in range((trial.times or trial.pick(2, 50)) // 2):
            folder = trial.folder / f"killed-{number}"
            path = folder / "files" / file.path
            for sign in rng.sample((signal.SIGKILL, signal.SIGINT), 2):
                process = command(server, [file], folder)
                try:
                    process.wait(rng.uniform(0, whole_s))
                except subprocess.TimeoutExpired:
                    process.send_signal(sign)
                process.communicate()
                found.add("kills")
                is_so = is_whole(path, file) if path.exists() else process.returncode != 0
                found.expect(is_so, f"{sign.name} {number}: status {process.returncode}, expected a whole file or a failure")
            process = command(server, [file], folder)
            process.communicate()
            is_so = process.returncode == 0 and is_whole(path, file)
            found.add("whole_after_kills", int(is_so))
            found.expect(is_so, f"after kill {number}: status {process.returncode}, expected a whole file")
            if number % 10 == 9:
                say(f"row 22: {found.counts['kills']} kills")
        found.counts["ranges_asked_for"] = sum("Range" in headers for headers in server.asked_for(f"data/{file.file_id}"))


def command(server: GdcServer, files: list[RemoteFile], folder: Path) -> "subprocess.Popen[str]":
    """Start `mice gdc download` of some files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder / "manifest.txt", files)
    words = ["gdc", "download", str(folder / "manifest.txt"), str(folder / "files"), "--api", server.address]
    start = [sys.executable, "-m", "mice_cli.main", *words]
    return subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
