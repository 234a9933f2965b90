"""Running a suite of rows by command: arguments, a folder for each row, the table and the JSON line."""

import argparse
import logging
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from faults.report import Row, Trial, run_row, summary, table


def run_suite(about: str, rows: Sequence[Row], totals: tuple[str, ...], times: str) -> int:
    """Run the rows that the command line asks for; print progress on standard error, then a table and one JSON object.

    `times` says what the option of that name counts. Returns the exit code: 1 if anything does not hold.
    """
    known = {row.number: row for row in rows}
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help=f"comma-separated, of {', '.join(map(str, known))}; all by default")
    parser.add_argument("--quick", action="store_true", help="every row at the size of seconds")
    parser.add_argument("--times", type=int, help=times)
    arguments = parser.parse_args()
    numbers = [int(text) for text in arguments.rows.split(",")] if arguments.rows else list(known)
    if unknown := sorted(set(numbers) - set(known)):
        parser.error(f"rows {unknown}, expected some of {sorted(known)}")
    # One server forks every child of every row in milliseconds, so that a kill hits what it is meant for. A child imports what
    # the suite's own module does, and need not where the server has it.
    multiprocessing.get_context("forkserver").set_forkserver_preload(sorted({row.run.__module__ for row in rows}))
    logging.getLogger("feature_store").setLevel(logging.ERROR)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mice-faults-") as name:
        for number in numbers:
            trial = Trial(Path(name) / f"row-{number}", is_quick=arguments.quick, times=arguments.times)
            verdicts.append(run_row(known[number], trial))
    sys.stdout.write(f"{table(verdicts)}\n{summary(verdicts, totals)}\n")
    return 0 if all(verdict.holds for verdict in verdicts) else 1
