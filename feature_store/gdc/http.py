"""Asking a server over HTTP: one session, its timeouts, what is worth another try, and how long to wait before it.

What belongs here: requests and answers of any kind. What they mean is api.py's and transfer.py's business.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter

from feature_store.errors import DownloadStoppedError, GdcError, GdcMissingError, GdcUnavailableError
from feature_store.gdc.token import Token

ADDRESS = "https://api.gdc.cancer.gov"
NUM_CONNECTIONS = 4
_CHUNK_BYTES = 1 << 20
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# A server that is busy, restarting or behind a gateway that is; any other refusal would be the same the next time.
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_BROKEN_OFF = (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
_RANDOM = random.SystemRandom()


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for. A thing is given up after `num_tries` tries without progress."""

    connect_s: float = 10.0
    read_s: float = 60.0
    num_tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 120.0
    slowest_bytes_per_s: float = 10_000.0
    slow_for_s: float = 30.0

    def wait_s(self, num_failures: int, retry_after_s: float | None) -> float:
        """Return the wait after so many failures: doubled each time, at random between a half and the whole of it."""
        backoff_s = self.first_wait_s * 2 ** (num_failures - 1) * _RANDOM.uniform(0.5, 1.0)
        return min(max(backoff_s, retry_after_s or 0.0), self.longest_wait_s)


class _Session(requests.Session):
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Leave the token behind where a redirection leads to another host, as requests does with its own header."""
        super().rebuild_auth(prepared_request, response)
        if self.should_strip_auth(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("X-Auth-Token", None)


class Http:
    """A server at an address. `stop`, once set, ends every wait and every answer with DownloadStoppedError."""

    def __init__(
        self,
        address: str = ADDRESS,
        token: Token | None = None,
        patience: Patience | None = None,
        num_connections: int = NUM_CONNECTIONS,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise GdcError(f"address {address}: no http(s) address, expected one such as {ADDRESS}. Correct it.")
        if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise GdcError(f"address {address}: a token would travel unencrypted, expected https. Correct the address.")
        self.address, self.patience, self.num_connections = address.rstrip("/"), patience or Patience(), num_connections
        self.stop = threading.Event()
        self._token = token
        self._session = _Session()
        self._session.headers["User-Agent"] = "mice-platform"
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(pool_maxsize=num_connections))

    @contextmanager
    def answer(
        self,
        method: str,
        path: str,
        payload: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        is_data: bool = False,
    ) -> Iterator[requests.Response]:
        """Ask once, and yield the answer with its body unread; status 416 comes through, for who asked for a range.

        `is_data` sends the token. Raises GdcUnavailableError if another try may succeed (the body's reader may raise what the
        network raises), GdcError if not.
        """
        sent = {**(headers or {}), **(self._token.headers() if self._token and is_data else {})}
        timeout = (self.patience.connect_s, self.patience.read_s)
        url = f"{self.address}/{path}"
        try:
            with self._session.request(method, url, json=payload, headers=sent, timeout=timeout, stream=True) as answer:
                if answer.status_code not in {200, 206, 416}:
                    raise self._refusal(method, path, answer)
                yield answer
        except requests.exceptions.SSLError as error:
            raise GdcError(f"{url}: no trusted connection ({error}). Check the address and your certificates.") from error
        except _BROKEN_OFF as error:
            raise GdcUnavailableError(f"{method} {url}: broken off ({error})") from error
        except requests.RequestException as error:
            raise GdcError(f"{method} {url}: {error}. Check the address.") from error

    def _refusal(self, method: str, path: str, answer: requests.Response) -> GdcError:
        said = " ".join(answer.raw.read1(400, decode_content=True).decode(errors="replace").split())
        if self._token:
            said = self._token.hidden_in(said)
        what = f"{method} {self.address}/{path}: status {answer.status_code} ({said[:200] or answer.reason})"
        if answer.status_code in _WORTH_ANOTHER_TRY:
            return GdcUnavailableError(what, retry_after_s(answer.headers))
        if answer.status_code == 404:
            return GdcMissingError(f"{what}. Check what is asked for; the GDC may have withdrawn it.")
        needs_token = answer.status_code in {401, 403}
        return GdcError(f"{what}. {'Controlled access needs --token-file.' if needs_token else 'Check what is asked for.'}")

    def chunks(self, answer: requests.Response, *, is_decoded: bool = False) -> Iterator[bytes]:
        """Yield an answer's body as it arrives, a MiB at most at a time; `is_decoded` undoes its content encoding.

        Raises GdcUnavailableError where it arrives too slowly to be waited for.
        """
        waited_s, num_bytes = 0.0, 0
        while True:
            start = time.monotonic()
            data = answer.raw.read1(_CHUNK_BYTES, decode_content=is_decoded)
            waited_s += time.monotonic() - start  # not the time that the bytes' reader takes
            if not data:
                return
            if self.stop.is_set():
                raise DownloadStoppedError("stopped")
            yield data
            num_bytes += len(data)
            if waited_s > self.patience.slow_for_s:
                if num_bytes < self.patience.slowest_bytes_per_s * waited_s:
                    raise GdcUnavailableError(f"{answer.url}: {num_bytes:,} bytes in {waited_s:.0f} s, too slow to wait for")
                waited_s, num_bytes = 0.0, 0


class Tries:
    """The tries of one thing: waits between them, and gives up after too many without progress."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._num_failures = 0

    def progressed(self) -> None:
        """Count from anew."""
        self._num_failures = 0

    def failed(self, error: GdcUnavailableError) -> None:
        """Wait for the next try, or raise `error` if this was the last."""
        self._num_failures += 1
        if self._num_failures >= self._http.patience.num_tries:
            raise error
        if self._http.stop.wait(self._http.patience.wait_s(self._num_failures, error.retry_after_s)):
            raise DownloadStoppedError("stopped") from error


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Retry-After asks for, given as such or as a date; None where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        asked = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    try:
        now = parsedate_to_datetime(headers.get("Date", "")).timestamp()  # the server's clock, which its date is of
    except (TypeError, ValueError):
        now = time.time()
    return max(asked - now, 0.0)
