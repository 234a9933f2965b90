"""The text of PDFs, in a process of its own: `python -m feature_store.ingest.pdf_worker`, a path a line in, an answer a line out.

A PDF comes from outside, and reading one can take any time and memory: this process has limits, and documents.py stops it.
Nothing of the platform is imported here but this module.
"""

import json
import logging
import resource
import sys
from pathlib import Path

_MAX_MEMORY_BYTES = 2 * 1024**3
_MAX_FILE_BYTES = 256 * 1024**2
_MAX_PAGES = 500
_MAX_CHARACTERS = 5_000_000
_OCR_DPI = 200
# What pypdf lets out over damaged files, beside its own errors. Whatever else it lets out ends the process, which says as much.
_UNREADABLE = (MemoryError, RecursionError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


class RefusedError(Exception):
    """A PDF is not read; the message says why."""


def text_of(path: Path, *, has_ocr: bool) -> str:
    """Return the text, pages joined by line ends. Raises RefusedError."""
    from pypdf.errors import DependencyError, PyPdfError  # noqa: PLC0415 - loaded once the limits are set

    if path.stat().st_size > _MAX_FILE_BYTES:
        raise RefusedError(f"over {_MAX_FILE_BYTES:,} bytes")
    try:
        text = _layer(path)
    except (DependencyError, NotImplementedError) as error:  # ciphers that pypdf alone does not know
        raise RefusedError("encrypted; save it without a password") from error
    except (PyPdfError, *_UNREADABLE) as error:
        raise RefusedError(f"unreadable ({type(error).__name__}: {str(error)[:120]})") from error
    return _pictured(path) if has_ocr and not text else text


def _layer(path: Path) -> str:
    from pypdf import PdfReader  # noqa: PLC0415 - as above

    reader = PdfReader(path, strict=False)
    if reader.is_encrypted and not reader.decrypt(""):
        raise RefusedError("encrypted; save it without a password")
    if (num_pages := len(reader.pages)) > _MAX_PAGES:
        raise RefusedError(f"{num_pages:,} pages, over {_MAX_PAGES:,}")
    pages, num_characters = [], 0
    for page in reader.pages:
        pages.append(page.extract_text())
        num_characters += len(pages[-1])
        if num_characters > _MAX_CHARACTERS:
            raise RefusedError(f"over {_MAX_CHARACTERS:,} characters")
    return "\n".join(pages).strip()


def _pictured(path: Path) -> str:
    import pypdfium2  # noqa: PLC0415 - of the extra `ocr`
    import pytesseract  # noqa: PLC0415 - of the extra `ocr`

    try:
        with pypdfium2.PdfDocument(path) as document:
            pictures = (page.render(scale=_OCR_DPI / 72).to_pil() for page in document)
            return "\n".join(pytesseract.image_to_string(picture) for picture in pictures).strip()
    except (pypdfium2.PdfiumError, pytesseract.TesseractError, *_UNREADABLE) as error:
        raise RefusedError(f"unreadable by OCR ({type(error).__name__}: {str(error)[:120]})") from error


def main() -> None:
    """Answer until the input ends."""
    logging.disable()  # pypdf tells of every oddity it mends
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    has_ocr = "--ocr" in sys.argv[1:]
    for line in sys.stdin:
        try:
            answer = {"text": text_of(Path(json.loads(line)), has_ocr=has_ocr)}
        except RefusedError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
