"""Progress of a download: files and bytes done, rate and time left; a bar on a terminal, log lines otherwise."""

import logging
import sys
import threading
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0


class DownloadProgress:
    """Told by any thread how many bytes came (negative: were dropped), and which files are done."""

    def __init__(self, num_files: int, num_bytes: int) -> None:
        self._num_files, self._num_bytes = num_files, num_bytes
        self._files_done = self._bytes_done = 0
        self._start = self._last = time.monotonic()
        self._lock = threading.Lock()
        self._bar = tqdm(total=num_bytes, unit="B", unit_scale=True, leave=False) if sys.stderr.isatty() else None

    def add_bytes(self, num_bytes: int) -> None:
        """Count bytes."""
        with self._lock:
            self._bytes_done += num_bytes
            if self._bar is not None:
                self._bar.update(num_bytes)
            elif time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
                self._say()

    def add_file(self) -> None:
        """Count a file that is done, one way or the other."""
        with self._lock:
            self._files_done += 1
            if self._bar is not None:
                self._bar.set_description(f"{self._files_done} of {self._num_files} files")

    def close(self) -> None:
        """Say how it ended."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            self._say()

    def _say(self) -> None:
        self._last = time.monotonic()
        elapsed_s = max(self._last - self._start, 1e-3)
        rate = self._bytes_done / elapsed_s
        left_s = (self._num_bytes - self._bytes_done) / rate if rate > 0 else float("inf")
        logger.info(
            "%d of %d files, %.2f of %.2f GB, %.1f MB/s, %.0f s left",
            *(self._files_done, self._num_files, self._bytes_done / 1e9, self._num_bytes / 1e9, rate / 1e6, left_s),
        )
