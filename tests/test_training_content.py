"""The hash of a training set's content: the same bytes from the same snapshot, whenever and by whomever it is read."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from feature_store.contract import Contract
from feature_store.home import Home
from feature_store.ingest.stage import stage
from feature_store.lake import Lake
from feature_store.publish import publish_cohort
from feature_store.training_content import content_sha256
from feature_store.training_set import TrainingSet, Vectors, latest_snapshot, read_training_set

READ = """
import json, sys
from pathlib import Path
from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.training_content import content_sha256
from feature_store.training_set import read_training_set
root, snapshot_id = json.loads(sys.argv[1])
print(content_sha256(read_training_set(Lake(Home(Path(root))), snapshot_id, ["synthetic"], "os", "synthetic-3fold")))
"""


def read(home: Home, snapshot_id: int) -> TrainingSet:
    return read_training_set(Lake(home), snapshot_id, ["synthetic"], "os", "synthetic-3fold")


@pytest.fixture(scope="module")
def data(published_home: Home) -> TrainingSet:
    return read(published_home, latest_snapshot(Lake(published_home)))


def test_a_snapshot_gives_the_same_bytes_after_more_publications_and_in_another_process(
    published_home: Home, data: TrainingSet, clean_landing: Path, synthetic_contract: Contract, tmp_path: Path
) -> None:
    home, digest = Home(tmp_path / "home"), content_sha256(data)
    shutil.copytree(published_home.root / "store", home.root / "store")
    publish_cohort(Lake(home), stage(synthetic_contract, clean_landing, home), "synthetic")
    newest = latest_snapshot(Lake(home))
    assert newest > data.snapshot_id
    assert content_sha256(read(home, newest)) != digest
    assert content_sha256(read(home, data.snapshot_id)) == digest
    command = [sys.executable, "-c", READ, json.dumps([str(home.root), data.snapshot_id])]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == digest


def other_value(vectors: Vectors) -> Vectors:
    values = vectors.values.copy()
    row, column = np.argwhere(np.isfinite(values))[0]
    values[row, column] = np.nextafter(values[row, column], np.float32(np.inf))
    return replace(vectors, values=values)


CHANGES: dict[str, Callable[[TrainingSet], TrainingSet]] = {
    "one value by one bit": lambda d: replace(d, rna=other_value(d.rna)),
    "a feature's name": lambda d: replace(d, rna=replace(d.rna, features=("OTHER", *d.rna.features[1:]))),
    "a fold": lambda d: replace(d, cases=d.cases.with_columns(fold=2 - pl.col("fold"))),
    "an outcome": lambda d: replace(d, event_observed=~d.event_observed),
    "a variant more": lambda d: replace(d, mutations=replace(d.mutations, counts=d.mutations.counts * 2)),
    "a text": lambda d: replace(d, reports=("another text", *d.reports[1:])),
    "a bag less": lambda d: replace(d, bags=(*d.bags[:-1], ())) if d.bags[-1] else replace(d, bags=(d.bags[0], *d.bags[:-1])),
    "another row order": lambda d: replace(d, clinical=d.clinical[::-1]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_differs_changes_it(data: TrainingSet, name: str) -> None:
    assert content_sha256(CHANGES[name](data)) != content_sha256(data)


def test_where_it_was_read_from_does_not(data: TrainingSet) -> None:
    moved = tuple(tuple(replace(bag, shard="elsewhere.parquet", offset_bytes=64) for bag in bags) for bags in data.bags)
    assert content_sha256(replace(data, snapshot_id=99, training_set_id="x", bags=moved)) == content_sha256(data)
