"""The user's GDC token: read from a file that nobody else can read, and never shown. Nothing else."""

import re
import stat
from pathlib import Path

from feature_store.errors import GdcError

_MAX_BYTES = 64 * 1024
_TOKEN = re.compile(r"[!-~]+")  # what an HTTP header may carry


class Token:
    """A secret whose text does not show: not when printed, logged or in a traceback's values."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Token(hidden)"

    def headers(self) -> dict[str, str]:
        """Return the header that the GDC reads it from."""
        return {"X-Auth-Token": self._text}

    def hidden_in(self, text: str) -> str:
        """Return `text` without the token, should a server have sent it back."""
        return text.replace(self._text, "(token)")


def read_token(path: Path) -> Token:
    """Read the token file of the GDC's portal. Raises GdcError for one that others may read, or that holds no token."""
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise GdcError(
                f"token file {path}: others may open it (mode {stat.S_IMODE(mode):o}), expected 600. Run `chmod 600 {path}`."
            )
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise GdcError(f"token file {path}: {error.strerror}, expected a file to read. Correct the path.") from error
    if _TOKEN.fullmatch(text) is None:
        raise GdcError(f"token file {path}: {len(text)} characters, not one token. Download it again from the GDC's portal.")
    return Token(text)
