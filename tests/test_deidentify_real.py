"""What scrubbing does to real pathology reports, which their publisher scrubbed already: skipped where they are not there.

`pytest tests/test_deidentify_real.py -s` prints how many of each kind were replaced, of how much text, and how fast.
"""

import os
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from feature_store.deidentify.texts import scrubbed

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def reports() -> pl.Series:
    folder = Path(os.environ.get("MICE_DATA") or ROOT.parent / "shared" / "data") / "raw" / "reports_grasool"
    if not folder.is_dir():
        pytest.skip(f"no reports in {folder}: set MICE_DATA to the landing folder")
    texts = [pl.read_csv(path, infer_schema=False)["ocr_text"].drop_nulls() for path in sorted(folder.glob("*.csv.gz"))]
    return pl.concat(texts).alias("text")


def test_little_of_a_scrubbed_report_is_replaced(reports: pl.Series) -> None:
    start = time.perf_counter()
    texts, counts = scrubbed(reports)
    seconds = time.perf_counter() - start
    tags = r"\[(?:" + "|".join(counts) + r")\]"
    num_before = int(reports.str.len_chars().sum())
    num_kept = int(texts.str.replace_all(tags, "").str.len_chars().sum())
    share = 1 - num_kept / num_before
    # what stands under their bar codes, the publisher's own barcodes and UUIDs among it, is most of what is replaced
    speed = num_before / seconds / 1e6
    sys.stdout.write(f"\n{reports.len():,} reports, {num_before:,} characters: {share:.2%} replaced, {speed:.1f} million/s\n")
    sys.stdout.write(f"{dict(counts.most_common())}\n")
    assert share < 0.03
    assert counts["name"] / reports.len() < 0.5
