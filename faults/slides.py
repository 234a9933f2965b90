"""The fault suite of the embedding run: `python -m faults.slides [--quick] [--times N]` (make faults NAME=slides).

A run is killed with SIGKILL at random moments and started again, until it is done; then all that is kept of the slides, and
the bag shards made of it, are held against those of a run that nobody disturbed. Slides are cut short and spoiled too.
"""

import sys

from faults.embedding import killed_runs, spoiled_slides
from faults.report import Row
from faults.suite import run_suite

ROWS = (
    Row(1, "SIGKILL at random moments of an embedding run", "all kept of the slides, and the bags, as undisturbed", killed_runs),
    Row(2, "slides cut short or overwritten in places", "refused with a reason, or read; the run goes on", spoiled_slides),
)
TOTALS = ("kills", "differing", "partial_seen", "orphans")


if __name__ == "__main__":
    sys.exit(run_suite(__doc__ or "", ROWS, TOTALS, "kills of row 1 (20 by default), slides of row 2"))
