"""What `mice doctor` says of one thing it looked at. The structure, and how its texts are shortened."""

from dataclasses import dataclass
from typing import Literal

State = Literal["pass", "warn", "fail"]
_MAX_NAMED = 3


@dataclass(frozen=True)
class Diagnosis:
    """One line: what was looked at, how it is, what was found, and what to do unless it passed."""

    name: str
    state: State
    found: str
    remedy: str = ""


def some(names: list[str]) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else "")


def first_line(error: Exception) -> str:
    """Return an error without the lines that follow its first."""
    return (str(error).splitlines() or [type(error).__name__])[0]
