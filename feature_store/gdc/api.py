"""The GDC's documented API: status, search and retrieval (all pages of it), manifests, versions.

What belongs here: endpoints and the shapes of their answers. What is asked of them for a landing folder is landing.py's business.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from feature_store.errors import GdcError, GdcMissingError, GdcUnavailableError
from feature_store.gdc.filters import Filter, all_of, one_of
from feature_store.gdc.http import Http, Tries
from feature_store.gdc.manifest import RemoteFile, parsed

logger = logging.getLogger(__name__)

Hit = dict[str, Any]
# What identifies a hit of an endpoint; sorting by it is what makes pages add up.
_IDS = {"cases": "case_id", "files": "file_id", "annotations": "annotation_id", "projects": "project_id"}
_PAGE = 1_000
_VALUES_PER_QUERY = 1_000
_IDS_PER_ADDRESS = 50  # versions are asked for in the address, which is limited
_MAX_ANSWER_BYTES = 1 << 30


class Gdc:
    """The API at an address."""

    def __init__(self, http: Http) -> None:
        self.http = http

    def status(self) -> dict[str, Any]:
        """Return what the API says of itself: status, version, data release."""
        return self._dict("GET", "status")

    def hits(self, endpoint: str, filters: Filter, fields: Sequence[str] = (), expand: Sequence[str] = ()) -> list[Hit]:
        """Return every hit, in the order of their ids; without `fields` and `expand`, with the endpoint's default fields.

        Raises GdcError if the pages do not add up to what was announced (a data release in between, say).
        """
        id_field = _IDS[endpoint]
        asked = {"filters": filters, "sort": f"{id_field}:asc", "size": _PAGE}
        if fields:
            asked["fields"] = ",".join(sorted({id_field, *fields}))
        if expand:
            asked["expand"] = ",".join(expand)
        found: dict[str, Hit] = {}
        while True:
            page, total = self._page(endpoint, {**asked, "from": len(found)})
            before = len(found)
            found |= {str(hit.get(id_field)): hit for hit in page}
            if len(found) != before + len(page) or len(found) > total or (not page and len(found) < total):
                raise GdcError(
                    f"{self.http.address}/{endpoint}: {len(found)} different hits of {before + len(page)}, expected {total}. "
                    "The answer changed between two pages; run it again."
                )
            if len(found) == total:
                return list(found.values())

    def hits_of(self, endpoint: str, field: str, values: Iterable[str], fields: Sequence[str], *others: Filter) -> Iterator[Hit]:
        """Yield every hit whose `field` is one of many `values`, and for which `others` hold."""
        for some in _groups(values, _VALUES_PER_QUERY):
            yield from self.hits(endpoint, all_of(one_of(field, some), *others), fields)

    def _page(self, endpoint: str, asked: dict[str, Any]) -> tuple[list[Hit], int]:
        answer = self._dict("POST", endpoint, asked)
        if answer.get("warnings"):
            logger.warning("the GDC warns: %s", answer["warnings"])
        try:
            return list(answer["data"]["hits"]), int(answer["data"]["pagination"]["total"])
        except (KeyError, TypeError, ValueError) as error:
            raise GdcError(
                f"{self.http.address}/{endpoint}: {str(answer)[:200]}, expected data with hits and pagination. "
                "Check the address and the filters."
            ) from error

    def manifest(self, filters: Filter) -> list[RemoteFile]:
        """Return all files that `filters` hold for, as the GDC's manifest has them."""
        body = self._body("POST", "files", {"filters": filters, "return_type": "manifest"})
        return parsed(body.decode(errors="replace").splitlines(), f"of {self.http.address}/files")

    def newest_versions(self, file_ids: Iterable[str]) -> dict[str, str]:
        """Return file id -> id of its newest version, of files that were released once; others are not in it."""
        newest = {}
        for some in _groups(file_ids, _IDS_PER_ADDRESS):
            for version in self._versions(some):
                if version.get("id") in some and version.get("latest_id"):
                    newest[str(version["id"])] = str(version["latest_id"])
        return newest

    def _versions(self, file_ids: list[str]) -> list[Hit]:
        try:
            answer = self._json("GET", f"files/versions/{','.join(file_ids)}")
        except GdcMissingError:  # it does not say which
            return [version for one in file_ids for version in self._versions([one])] if len(file_ids) > 1 else []
        if not isinstance(answer, list):
            raise GdcError(f"{self.http.address}/files/versions: {str(answer)[:200]}, expected a list. Check the address.")
        return answer

    def _dict(self, method: str, path: str, payload: Any = None) -> dict[str, Any]:
        answer = self._json(method, path, payload)
        if not isinstance(answer, dict):
            raise GdcError(f"{self.http.address}/{path}: {str(answer)[:200]}, expected a JSON object. Check the address.")
        return answer

    def _json(self, method: str, path: str, payload: Any = None) -> Any:
        body = self._body(method, path, payload)
        try:
            return json.loads(body)
        except ValueError as error:
            start = " ".join(body[:200].decode(errors="replace").split())
            raise GdcError(f"{self.http.address}/{path}: {start!r}, expected JSON. Check the address; try later.") from error

    def _body(self, method: str, path: str, payload: Any) -> bytes:
        tries = Tries(self.http)
        while True:
            try:
                return self._body_once(method, path, payload)
            except GdcUnavailableError as error:
                logger.info("%s; trying again", error)
                tries.failed(error)

    def _body_once(self, method: str, path: str, payload: Any) -> bytes:
        body = bytearray()
        with self.http.answer(method, path, payload) as answer:
            for chunk in self.http.chunks(answer, is_decoded=True):
                body += chunk
                if len(body) > _MAX_ANSWER_BYTES:
                    raise GdcError(f"{answer.url}: more than {_MAX_ANSWER_BYTES:,} bytes, expected a page of hits.")
        return bytes(body)


def _groups(values: Iterable[str], size: int) -> Iterator[list[str]]:
    ordered = sorted(set(values))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
