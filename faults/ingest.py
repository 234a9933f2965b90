"""The ingest's fault suite: `python -m faults.ingest [--rows 14,20] [--quick] [--times N]` (make faults NAME=ingest).

Prints progress on standard error, then a table of the rows and, as the last line, one JSON object. Exits with 1 if anything
does not hold. What each row does is in the families' modules; docs/faults.md says what they mean.
"""

import sys

from faults.archives import hostile_archives
from faults.damage import truncated_files
from faults.downloads import broken_downloads
from faults.erasure import erased_case
from faults.fuzzing import fuzzed_parsers
from faults.identifiers import planted_identifiers
from faults.inputs import bombs_and_drift
from faults.patches import contradictions, pickles, reaching_out, values
from faults.report import Row
from faults.suite import run_suite
from faults.tables import identifiers, outcomes
from faults.withdrawals import lying_manifests, withdrawn_cases

ROWS = (
    Row(8, "files cut short: h5, CSV, Parquet, bag shard", "all refused", truncated_files),
    Row(10, "an erased case is ingested again (after row 9)", "refused; nothing of it comes back", erased_case),
    Row(11, "the GDC withdraws a case", "flagged at the next sync; the next snapshot leaves it out", withdrawn_cases),
    Row(14, "outcomes in other codes, units and impossible times", "declared ones mapped, others rejected by name", outcomes),
    Row(15, "identifiers spelt otherwise, of another level, twice", "normalised, or rejected by name", identifiers),
    Row(16, "patches at another scale, width or by another encoder", "the bag is refused, with the slide", contradictions),
    Row(17, "NaN, infinite, constant, other counts; 0, 1 and 300,000 patches", "refused, or stored within memory", values),
    Row(18, "h5 that reaches out of itself or claims terabytes", "refused in under 1 s and 200 MB", reaching_out),
    Row(19, "hostile pickles under every ending", "never unpickled", pickles),
    Row(
        20, "archives that write outside, through links, or without end", "refused, nothing outside the target", hostile_archives
    ),
    Row(21, "manifests with `../`, other sums and sizes, an id twice", "refused, by line", lying_manifests),
    Row(
        22,
        "a server that resets, lies, stalls, limits, forbids",
        "resumed and verified; non-zero exit if any is missing",
        broken_downloads,
    ),
    Row(25, "Parquet bombs; drifted sources", "refused within bounds; nothing published", bombs_and_drift),
    Row(
        30,
        "names, numbers and dates planted in texts, attributes, paths",
        "99% found; none in store, logs, metadata",
        planted_identifiers,
    ),
    Row(32, "every parser on damaged files, 60 s each", "0 crashes, 0 hangs, typed errors only", fuzzed_parsers),
)
TOTALS = ("crashes", "hangs", "untyped", "outside_writes")

if __name__ == "__main__":
    sys.exit(run_suite(__doc__ or "", ROWS, TOTALS, "seconds for each parser of row 32 (60 by default, 3600 for an hour)"))
