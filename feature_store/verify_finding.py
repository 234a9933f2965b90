"""What a verification finds. The structure only, shared by the checks of tables, bags and models."""

from collections.abc import Callable
from dataclasses import dataclass

# (what is being checked, done, in all)
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Finding:
    """One finding: `kind` of object, `which` one, what was `found` and `expected`, and the `remedy`.

    `slide_id` and `case_id` are filled where it concerns a slide's bag. `is_problem` is False for what is merely left over.
    """

    kind: str
    which: str
    found: str
    expected: str
    remedy: str
    slide_id: str | None = None
    case_id: str | None = None
    is_problem: bool = True

    def __str__(self) -> str:
        """Return the line a person reads."""
        return f"{self.which}: {self.found}, expected {self.expected}. {self.remedy}."
