"""The store's fault suite: `python -m faults.store [--rows 1,2,7] [--quick] [--times N]` (make faults NAME=store).

Prints progress on standard error, then a table of the rows and, as the last line, one JSON object. Exits with 1 if anything
does not hold. What each row does is in the families' modules; docs/faults.md says what they mean.
"""

import sys

from faults.damage import flipped_bits, truncated_files
from faults.disks import refusing_disks
from faults.erasure import erased_case
from faults.inputs import bombs_and_drift
from faults.kills import killed_at_each_step, killed_at_random, unheard_acknowledgements
from faults.leaks import later_knowledge, same_person_twice
from faults.queries import hostile_sql, runaway_queries
from faults.report import Row
from faults.suite import run_suite
from faults.writers import many_writers, readers_among_writers

ROWS = (
    Row(1, "SIGKILL at random moments of publishing", "0 acknowledged lost, 0 torn, reopened in under 1 s", killed_at_random),
    Row(2, "SIGKILL at every step of publishing", "the old or the new snapshot, never a mix", killed_at_each_step),
    Row(3, "8 writers of 50 commits each at the same time", "all present, none twice, no deadlock", many_writers),
    Row(4, "the acknowledgement is lost after the commit and clients retry", "exactly one effect", unheard_acknowledgements),
    Row(5, "writer, maintenance and readers together", "a reader sees one consistent snapshot each time", readers_among_writers),
    Row(6, "disk full, read-only, no write beyond a size", "typed error, store readable, temporaries collected", refusing_disks),
    Row(
        7, "a flipped bit in a bag shard or a table file", "all found by `mice verify`, which names slide and case", flipped_bits
    ),
    Row(8, "files cut short: h5, CSV, Parquet, bag shard", "all refused", truncated_files),
    Row(
        9, "a case is erased (and ingested again: row 10)", "0 hits anywhere, others unchanged, under 60 s; refused", erased_case
    ),
    Row(12, "the same person in two cohorts", "the build is refused", same_person_twice),
    Row(13, "a feature known after time zero; held-out rows in a fit", "the build is refused", later_knowledge),
    Row(23, "hostile SQL; names with quotes", "refused, or values", hostile_sql),
    Row(24, "runaway queries beside a publisher", "stopped by their caps; publishing goes on", runaway_queries),
    Row(25, "Parquet bombs; drifted sources", "refused within bounds; nothing published", bombs_and_drift),
)
TOTALS = ("acknowledged_lost", "torn", "duplicates", "erase_hits", "bit_flips_found")


if __name__ == "__main__":
    sys.exit(run_suite(__doc__ or "", ROWS, TOTALS, "kills of row 1 (200 by default)"))
