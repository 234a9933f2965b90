"""`similar_patches` against numpy over the same vectors: other slides, other encoders, a patch of zeros, what is not there."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from feature_store.analyst import Analyst, analyst_connection
from feature_store.bag_file import write_shards
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.errors import QueryError
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.publish import Write, publish
from feature_store.tables import CASES, PATCH_BAGS

DIM, NUM_PATCHES = 8, 12


def slide_bag(case: int, seed: int, dim: int = DIM) -> SlideBag:
    rng = np.random.default_rng(seed)
    xy = np.stack([np.arange(NUM_PATCHES) * 256, np.full(NUM_PATCHES, seed)], axis=1)
    values = rng.normal(size=(NUM_PATCHES, dim)).astype(np.float16)
    return SlideBag(f"slide-{case}", f"case-{case}", xy, values, "0" * 64, 256, None, None)


def published(home: Home, bags_of_encoder: dict[EncoderInfo, list[SlideBag]], max_shard_bytes: int) -> None:
    records = [
        {**vars(record), "cohort": "c", "encoder_sha256": encoder.weight_sha256}
        for encoder, bags in bags_of_encoder.items()
        for record in write_shards(home.bags, bags, encoder, max_shard_bytes=max_shard_bytes)
    ]
    cases = [
        {"case_id": f"case-{n}", "cohort": "c", "project_id": "p", "cancer_type": "ab"[n % 2], "site": None, "source_sha256": ""}
        for n in range(4)
    ]
    rows = {CASES: cases, PATCH_BAGS: records}
    publish(Lake(home), [Write(table, "c", pl.DataFrame(found, schema=table.schema)) for table, found in rows.items()], "publish")


@pytest.fixture(scope="module")
def bags() -> list[SlideBag]:
    found = [slide_bag(case, seed=case) for case in range(4)]
    found[2].embedding[3] = 0  # no direction: the least similar of all
    return found


@pytest.fixture(scope="module")
def analyst(bags, tmp_path_factory):
    """Four slides in several shards by one encoder, the first of them by a wider one too."""
    home = Home(tmp_path_factory.mktemp("it's") / "home")
    narrow, wide = (EncoderInfo(name, "0" * 64, dim, "none") for name, dim in (("narrow", DIM), ("wide", 2 * DIM)))
    published(home, {narrow: bags[1:], wide: [slide_bag(0, 9, 2 * DIM)]}, max_shard_bytes=DIM * NUM_PATCHES * 2)
    with analyst_connection(home) as connection:
        yield connection


def similar(analyst: Analyst, slide: str, x: int, y: int, num_patches: int) -> list[dict]:
    values = {"slide": slide, "x": x, "y": y, "n": num_patches}
    return analyst.query("FROM similar_patches($slide, $x, $y, $n)", values).to_pylist()


def test_the_most_similar_patches_are_numpys(analyst, bags):
    asked = bags[1].embedding[5].astype(np.float64)
    expected = {}
    for bag in bags[1:]:
        for (x, y), vector in zip(bag.xy.tolist(), bag.embedding.astype(np.float64), strict=True):
            if (bag.slide_id, x) != ("slide-1", 5 * 256):
                norms = np.linalg.norm(asked) * np.linalg.norm(vector)
                expected[bag.slide_id, x, y] = asked @ vector / norms if norms else -1
    best = sorted(expected, key=expected.__getitem__, reverse=True)
    for num_patches in (7, 1_000):
        found = similar(analyst, "slide-1", 5 * 256, 1, num_patches)
        assert [(row["slide_id"], row["x"], row["y"]) for row in found] == best[:num_patches]
        np.testing.assert_allclose([row["similarity"] for row in found], [expected[key] for key in best[:num_patches]], atol=1e-6)
        assert {(row["case_id"], row["cancer_type"]) for row in found} <= {("case-1", "b"), ("case-2", "a"), ("case-3", "b")}
        assert {row["encoder"] for row in found} == {"narrow"}


def test_only_bags_of_the_same_encoder_are_compared(analyst):
    found = similar(analyst, "slide-0", 0, 9, 1_000)
    assert {(row["slide_id"], row["encoder"]) for row in found} == {("slide-0", "wide")}
    assert len(found) == NUM_PATCHES - 1


def test_a_slide_by_two_encoders_is_compared_within_each(tmp_path: Path, bags):
    """The encoders of one slide have their own widths, and their own neighbours."""
    home = Home(tmp_path)
    narrow, wide = (EncoderInfo(name, "0" * 64, dim, "none") for name, dim in (("narrow", DIM), ("wide", 2 * DIM)))
    other = [slide_bag(case, case, 2 * DIM) for case in range(2)]
    published(home, {narrow: bags[:3], wide: other}, max_shard_bytes=2**20)
    with analyst_connection(home) as analyst:
        found = similar(analyst, "slide-1", 256, 1, 1_000)
    counts = {name: sum(row["encoder"] == name for row in found) for name in ("narrow", "wide")}
    assert counts == {"narrow": 3 * NUM_PATCHES - 1, "wide": 2 * NUM_PATCHES - 1}
    assert {row["slide_id"] for row in found if row["encoder"] == "wide"} == {"slide-0", "slide-1"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("O'Brien", 0, 0), "no bag of slide O'Brien in this snapshot"),
        (("slide-1", 1, 1), "no patch at 1, 1 of slide slide-1"),
        (("slide-1", 0, 2), "no patch at 0, 2 of slide slide-1"),
    ],
)
def test_what_is_not_there_is_named(analyst, arguments, message):
    with pytest.raises(QueryError, match=message):
        similar(analyst, *arguments, 3)
