"""What a row of the fault suite is told and what it answers; the table and the JSON line made of the answers.

What belongs here: nothing that does a fault (the families: kills.py, writers.py and so on) or that knows the store.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

Count = int | float | str
T = TypeVar("T")


@dataclass
class Found:
    """A row's answer: counts by name, and each way in which what must hold did not (none: it holds)."""

    counts: dict[str, Count] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, name: str, by: float = 1) -> None:
        """Count something; the name appears once it was counted, be it by 0."""
        self.counts[name] = self.counts.get(name, 0) + by  # type: ignore[operator] # texts are set, never added to

    def expect(self, is_so: bool, problem: str) -> None:
        """Note `problem` unless it is so."""
        if not is_so:
            self.problems.append(problem)


@dataclass(frozen=True)
class Trial:
    """What a row is told: an empty folder of its own, and how large to be."""

    folder: Path
    is_quick: bool
    times: int | None = None

    def pick(self, quick: T, full: T) -> T:
        """Return the size for this run."""
        return quick if self.is_quick else full


@dataclass(frozen=True)
class Row:
    """A row of the suite: the fault, what must hold, and the function that does it."""

    number: int
    fault: str
    holds: str
    run: Callable[[Trial], Found]


@dataclass(frozen=True)
class Verdict:
    """A row that was run."""

    row: Row
    found: Found
    seconds: float

    @property
    def holds(self) -> bool:
        """Say whether what must hold does."""
        return not self.found.problems


def say(text: str) -> None:
    """Print a line of progress, apart from the table."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def run_row(row: Row, trial: Trial) -> Verdict:
    """Run a row in its folder; an error that escapes it is a problem like any other."""
    say(f"row {row.number}: {row.fault}")
    start = time.perf_counter()
    trial.folder.mkdir(parents=True)
    try:
        found = row.run(trial)
    except Exception as error:  # noqa: BLE001 - the other rows are to run, and this one fails with the error's text
        found = Found(problems=[f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"])
    seconds = time.perf_counter() - start
    for problem in found.problems[:20]:
        say(f"row {row.number} does not hold: {problem}")
    return Verdict(row, found, seconds)


def table(verdicts: list[Verdict]) -> str:
    """Return the verdicts as a Markdown table."""
    lines = ["| row | fault | what must hold | counts | seconds | verdict |", "|---|---|---|---|---|---|"]
    for verdict in verdicts:
        counts = ", ".join(
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in verdict.found.counts.items()
        )
        cells = (
            str(verdict.row.number),
            verdict.row.fault,
            verdict.row.holds,
            counts.replace("_", " "),
            f"{verdict.seconds:.0f}",
            "holds" if verdict.holds else "DOES NOT HOLD",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(verdicts: list[Verdict], totals: tuple[str, ...]) -> str:
    """Return one line of JSON: each of `totals`, summed over the rows that count it (null if none does), and all counts."""

    def total(name: str) -> float | None:
        values = [v.found.counts[name] for v in verdicts if name in v.found.counts]
        return sum(value for value in values if not isinstance(value, str)) if values else None

    rows = {
        str(v.row.number): {"holds": v.holds, "seconds": round(v.seconds, 1), **v.found.counts, "problems": len(v.found.problems)}
        for v in verdicts
    }
    return json.dumps({"holds": all(v.holds for v in verdicts), **{name: total(name) for name in totals}, "rows": rows})
