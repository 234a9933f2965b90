"""A GDC to download from without a network: it answers as the GDC documents it, on loopback only, and misbehaves on demand.

Run: python -m faults.gdc_server --generate 200 100000 [--catalogue <a GCv36 tsv.gz>]; it prints its address.
"""

import argparse
import gzip
import io
import json
import os
import re
import socket
import struct
import sys
import tarfile
import threading
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from faults.gdc_data import ID_FIELDS, Content, Hit, answer, catalogue, generated

HTML = b"<!DOCTYPE html><html><title>Maintenance</title><body>The GDC is down for maintenance.</body></html>"
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer. Numbers of bytes count within the body."""

    status: int = 0
    retry_after: str = ""
    is_html: bool = False
    ignores_range: bool = False
    etag: str = ""
    is_wrong: bool = False
    reset_after: int | None = None
    truncate_after: int | None = None
    hang_after: int | None = None
    bytes_per_s: float = 0.0
    redirect_to: str = ""


class GdcServer:
    """`with GdcServer(files=hits, contents=contents) as server:` serves at `server.address` until the end.

    `requests` lists method, path and headers of each request; the lists of hits and the newest versions may be changed meanwhile.
    """

    def __init__(
        self,
        files: Iterable[Hit] = (),
        contents: dict[str, Content] | None = None,
        cases: Iterable[Hit] = (),
        annotations: Iterable[Hit] = (),
        port: int = 0,
    ) -> None:
        self.hits = {"files": list(files), "cases": list(cases), "annotations": list(annotations), "projects": []}
        self.contents = contents or {}
        self.newest_versions: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.closing = threading.Event()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._lasting: dict[str, Fault] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", port), type("Handler", (_Handler,), {"gdc": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def misbehave(self, path: str, *faults: Fault, is_lasting: bool = False) -> None:
        """Let the next answers for a path ("data/<id>", "data", "files") go wrong, one fault each, or all with the first."""
        if is_lasting:
            self._lasting[path] = faults[0]
        else:
            self._faults[path].extend(faults)

    def fault(self, path: str) -> Fault:
        """Return what is to go wrong with an answer now."""
        return self._faults[path].popleft() if self._faults[path] else self._lasting.get(path, Fault())

    def asked_for(self, path: str) -> list[dict[str, str]]:
        """Return the headers of each request for a path so far."""
        return [headers for _, of, headers in self.requests if of == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gdc: GdcServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: `requests` has it."""

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if "filters" in query:
            query["filters"] = json.loads(query["filters"])
        self._handle(query)

    def do_POST(self) -> None:
        self._handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _handle(self, asked: dict[str, Any]) -> None:
        path = urlsplit(self.path).path.strip("/")
        self.gdc.requests.append((self.command, path, dict(self.headers)))
        fault = self.gdc.fault(path)
        with suppress(ConnectionError):  # the client has had enough
            if fault.redirect_to:
                self._send(307, b"", {"Location": f"{fault.redirect_to}/{path}"})
            elif fault.status:
                retry = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                self._send(fault.status, json.dumps({"message": f"status {fault.status}"}).encode(), retry)
            elif fault.is_html:
                self._send(200, HTML, {"Content-Type": "text/html"})
            else:
                self._answer(path, asked, fault)

    def _answer(self, path: str, asked: dict[str, Any], fault: Fault) -> None:
        head, _, rest = path.partition("/")
        if path == "status":
            self._send_json({"status": "OK", "version": 1, "tag": "replay", "data_release": "Data Release 0"})
        elif path == "data":
            self._send_body(self._archive(asked["ids"]), fault, '"archive"')
        elif head == "data" and rest in self.gdc.contents:
            content = self.gdc.contents[rest]
            self._send_body(content, fault, fault.etag or f'"{content.md5}"')
        elif path.startswith("files/versions/"):
            known = {hit["file_id"]: hit["file_id"] for hit in self.gdc.hits["files"]} | self.gdc.newest_versions
            ids = rest.removeprefix("versions/").split(",")
            self._send_json([{"id": one, "latest_id": known[one]} for one in ids if one in known])
        elif path in ID_FIELDS and asked.get("return_type") == "manifest":
            hits = answer(path, self.gdc.hits[path], {**asked, "size": 10**9})["data"]["hits"]
            rows = [[str(hit[name]) for name in ("file_id", "file_name", "md5sum", "file_size", "state")] for hit in hits]
            self._send(
                200, "".join("\t".join(row) + "\n" for row in [["id", "filename", "md5", "size", "state"], *rows]).encode()
            )
        elif path in ID_FIELDS:
            self._send_json(answer(path, self.gdc.hits[path], asked))
        else:
            self._send(404, b'{"message": "not found"}')

    def _archive(self, ids: list[str]) -> Content:
        packed = io.BytesIO()
        names = {hit["file_id"]: hit["file_name"] for hit in self.gdc.hits["files"]}
        with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=0) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            members = [(f"{one}/{names[one]}", b"".join(self.gdc.contents[one].blocks())) for one in ids]
            for name, data in [*members, ("MANIFEST.txt", b"id\tfilename\tmd5\tsize\tstate\n")]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return Content("", 0, packed.getvalue())

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_body(self, content: Content, fault: Fault, etag: str) -> None:
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        is_ranged = asked is not None and not fault.ignores_range and self.headers.get("If-Range", etag) == etag
        start = int(asked[1]) if asked and is_ranged else 0
        if start and start >= content.num_bytes:
            self._send(416, b"", {"Content-Range": f"bytes */{content.num_bytes}"})
            return
        self.send_response(206 if is_ranged else 200)
        if is_ranged:
            self.send_header("Content-Range", f"bytes {start}-{content.num_bytes - 1}/{content.num_bytes}")
        self.send_header("Content-Length", str(content.num_bytes - start))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", etag)
        self.end_headers()
        self._send_blocks(content, start, fault)

    def _send_blocks(self, content: Content, start: int, fault: Fault) -> None:
        ends = (fault.reset_after, fault.truncate_after, fault.hang_after)
        left = min([content.num_bytes - start, *(end for end in ends if end is not None)])
        for number, block in enumerate(content.blocks(start)):
            data = bytes([block[0] ^ 1]) + block[1:] if fault.is_wrong and number == 0 else block
            step = max(1, int(fault.bytes_per_s / 20)) if fault.bytes_per_s else len(data)
            for first in range(0, min(len(data), left), step):
                self.wfile.write(data[first : min(first + step, left)])
                if fault.bytes_per_s and self.gdc.closing.wait(0.05):
                    return
            left -= min(len(data), left)
            if not left:
                break
        if fault.hang_after is not None:
            self.gdc.closing.wait()
        if fault.reset_after is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        self.close_connection = any(end is not None for end in ends) or self.close_connection


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generate", nargs=2, type=int, action="append", default=[], metavar=("FILES", "BYTES"))
    parser.add_argument("--catalogue", type=Path, help="a list of the GDC's; its files are served with at most 4 KiB each")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    sources = [generated(*size) for size in options.generate]
    if options.catalogue:
        sources.append(catalogue(options.catalogue, 4_096))
    files = [hit for hits, _ in sources for hit in hits]
    contents = {file_id: content for _, some in sources for file_id, content in some.items()}
    with GdcServer(files, contents, port=options.port) as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            server.closing.wait()


if __name__ == "__main__":
    main()
