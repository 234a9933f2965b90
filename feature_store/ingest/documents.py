"""Texts of documents that are files: PDF through a process with limits (pdf_worker.py), everything else as plain text."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from select import select
from shutil import which
from types import TracebackType
from typing import IO, Self, cast

from feature_store.errors import ContractError

_SECONDS_PER_DOCUMENT = 60.0
_SECONDS_PER_SCAN = 600.0  # OCR takes some seconds a page
_MAX_TEXT_BYTES = 16 * 1024**2
_INSTALL = "Install the extra ocr (pip install 'mice-platform[ocr]') and tesseract"
NO_TEXT = f"PDF without a text layer: pictures of text only. {_INSTALL}, and declare ocr: true"


class UnreadableDocumentError(Exception):
    """A document has no text that can be had; the message says why."""


class Documents:
    """Reads documents one after the other. A context manager: the process that reads PDFs lives as long.

    Raises ContractError where OCR is asked for and not installed.
    """

    def __init__(self, encoding: str, *, has_ocr: bool, timeout_s: float | None = None) -> None:
        lacking = [name for name in ("pypdfium2", "pytesseract") if find_spec(name) is None]
        if has_ocr and (lacking or which("tesseract") is None):
            found = " and ".join(lacking) or "the program tesseract"
            raise ContractError(f"reports: ocr: true without {found}, expected it here. {_INSTALL}, or leave ocr out.")
        self._encoding = encoding
        self._has_ocr = has_ocr
        self._timeout_s = timeout_s or (_SECONDS_PER_SCAN if has_ocr else _SECONDS_PER_DOCUMENT)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def text(self, path: Path) -> str:
        """Return a document's text. Raises UnreadableDocumentError."""
        if path.suffix.lower() != ".pdf":
            return self._plain(path)
        answer = self._ask(path)
        if "error" in answer:
            raise UnreadableDocumentError(f"PDF: {answer['error']}")
        if not answer["text"]:
            raise UnreadableDocumentError("PDF without text, on its pictures too" if self._has_ocr else NO_TEXT)
        return answer["text"]

    def _plain(self, path: Path) -> str:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise UnreadableDocumentError(f"text over {_MAX_TEXT_BYTES:,} bytes")
        try:
            return path.read_bytes().decode(self._encoding)
        except UnicodeDecodeError as error:
            raise UnreadableDocumentError(f"no text in {self._encoding}; declare its encoding under file") from error

    def _ask(self, path: Path) -> dict[str, str]:
        process = self._process = self._process or self._started()
        questions, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        answer, is_late, deadline = b"", False, time.monotonic() + self._timeout_s
        try:
            questions.write(json.dumps(str(path.resolve())).encode() + b"\n")
            questions.flush()
            while not (answer.endswith(b"\n") or is_late):
                is_late = not select([answers], [], [], max(deadline - time.monotonic(), 0))[0]
                part = b"" if is_late else answers.read1(1 << 20)  # type: ignore[attr-defined] # of a pipe; read would wait
                if not part:
                    break
                answer += part
        except BrokenPipeError:
            answer = b""
        if answer.endswith(b"\n"):
            return dict(json.loads(answer))
        self._stop()
        why = f"not read within {self._timeout_s:g} s" if is_late else "reading it ended the process (out of memory, say)"
        raise UnreadableDocumentError(f"PDF: {why}")

    def _started(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "feature_store.ingest.pdf_worker", *(["--ocr"] if self._has_ocr else [])]
        return subprocess.Popen(  # noqa: S603 - our own module, and no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
