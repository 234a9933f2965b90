"""A case's vector and a gene over all cases are the same published values; the cache of vectors can be lost or broken."""

import errno
import logging
import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from feature_store import publish as publishing
from feature_store import vector_cache
from feature_store.analyst import analyst_connection
from feature_store.contract import Contract
from feature_store.home import Home
from feature_store.ingest.omics import panel_of
from feature_store.ingest.stage import stage
from feature_store.lake import Lake, rows_in_files
from feature_store.publish import Write, publish
from feature_store.tables import CASES, GENE_PANELS, RNA, RNA_BY_FEATURE
from feature_store.transposed import by_feature
from feature_store.vector_cache import collect_cache, drop_cohort
from feature_store.vectors import open_vectors

GENES = [f"G{index:03}" for index in range(150)] + ["C1orf112", "c1QA"]  # in no one letter case
UNIT = "log2(TPM + 1)"


def cohort_writes(cohort: str, panels: dict[int, list[str]], num_cases: int, seed: int = 0) -> list[Write]:
    """Writes of a cohort: `panels` maps a step to the genes that every step-th case was measured for, NaN among the values."""
    rng = np.random.default_rng(seed)
    case_ids = [f"{cohort}-{index:03}" for index in rng.permutation(num_cases)]
    rows, positions = [], []
    for step, genes in panels.items():
        panel_id = panel_of("rna", UNIT, genes)
        positions += [(cohort, panel_id, "rna", position, gene, UNIT) for position, gene in enumerate(genes)]
        for case_id in case_ids[::step]:
            values = rng.standard_normal(len(genes)).astype(np.float32)
            values[rng.random(len(genes)) < 0.1] = np.nan
            rows.append((case_id, cohort, panel_id, values.tolist(), "0" * 64))
    rna = pl.DataFrame(rows, schema=RNA.schema, orient="row")
    gene_panels = pl.DataFrame(positions, schema=GENE_PANELS.schema, orient="row")
    cases = pl.DataFrame({"case_id": case_ids}).with_columns(
        cohort=pl.lit(cohort), project_id=pl.lit("P"), cancer_type=pl.lit("t"), site=pl.lit(None), source_sha256=pl.lit("0")
    )
    frames = {CASES: cases, RNA: rna, GENE_PANELS: gene_panels, RNA_BY_FEATURE: by_feature(rna, gene_panels, RNA_BY_FEATURE)}
    return [Write(table, cohort, table.conform(frame)) for table, frame in frames.items()]


@pytest.fixture
def store(tmp_path: Path) -> Lake:
    """Two cohorts: one of all genes, and one of two panels of which some of its cases have both."""
    lake = Lake(Home(tmp_path / "home"))
    writes = [
        *cohort_writes("whole", {1: sorted(GENES)}, 30),
        *cohort_writes("o'dd/..", {1: sorted(GENES[:40]), 3: sorted(GENES[20:90])}, 20, seed=1),
    ]
    publish(lake, writes, "publish cohort both")
    return lake


def expected(lake: Lake, cohorts: list[str]) -> tuple[pl.DataFrame, list[str], np.ndarray]:
    """Return (cases, features, values) straight from the table, placed value by value; a later panel covers an earlier one."""
    with lake.reader() as connection:
        frames = [pl.DataFrame(connection.execute(f'FROM "{name}"').to_arrow_table()) for name in ("cases", "gene_panels", "rna")]
    cases, panels, rna = (frame.filter(pl.col("cohort").is_in(cohorts)) for frame in frames)
    cases = cases.sort("case_id").select("cohort", "case_id")
    features = sorted(set(panels["feature"]))
    row_of = {case_id: row for row, case_id in enumerate(cases["case_id"])}
    values = np.full((len(cases), len(features)), np.nan, np.float32)
    for row in rna.sort("panel_id").iter_rows(named=True):
        panel = panels.filter(panel_id=row["panel_id"], cohort=row["cohort"])
        for position, feature in panel.select("position", "feature").iter_rows():
            values[row_of[row["case_id"]], features.index(feature)] = row["values"][position]
    return cases, features, values


def read(lake: Lake, cases: pl.DataFrame, rows=None) -> np.ndarray:
    with lake.reader() as connection:
        vectors = open_vectors(lake.home, connection, cases, "rna")
    return vectors.rows(range(len(cases)) if rows is None else rows)


def files(lake: Lake) -> list[Path]:
    return sorted(path for path in lake.home.cache.rglob("*") if path.is_file())


# --- a case's vector


@pytest.mark.parametrize(("cohorts", "num_files"), [(["whole"], 1), (["o'dd/.."], 2), (["whole", "o'dd/.."], 3)])
def test_vectors_are_the_tables_to_the_bit(store: Lake, cohorts: list[str], num_files: int) -> None:
    cases, features, values = expected(store, cohorts)
    for _ in range(2):  # made, then mapped
        with store.reader() as connection:
            vectors = open_vectors(store.home, connection, cases, "rna")
        assert list(vectors.features) == features
        assert vectors.rows(range(len(cases))).tobytes() == values.tobytes()
        np.testing.assert_array_equal(vectors.is_present, np.ones(len(cases), bool))
    assert len(files(store)) == num_files


def test_rows_come_in_the_order_asked_for_and_into_the_array_given(store: Lake) -> None:
    cases, _, values = expected(store, ["whole", "o'dd/.."])
    indices = np.random.default_rng(0).integers(0, len(cases), 64)
    with store.reader() as connection:
        vectors = open_vectors(store.home, connection, cases, "rna")
    out = np.ones((64, len(vectors.features)), np.float32)
    assert vectors.rows(indices, out) is out
    np.testing.assert_array_equal(out, values[indices])


def test_a_case_without_a_vector_is_absent(store: Lake) -> None:
    cases = pl.DataFrame({"cohort": ["whole", "whole", "o'dd/.."], "case_id": ["nobody", "whole-000", "whole-001"]})
    with store.reader() as connection:
        vectors = open_vectors(store.home, connection, cases, "rna")
    assert vectors.is_present.tolist() == [False, True, False]  # the last is a case of another cohort
    assert np.isnan(vectors.rows([0, 2])).all()
    assert not np.isnan(vectors.rows([1])).all()
    with store.reader() as connection:
        assert open_vectors(store.home, connection, cases, "copy_number").rows([0]).shape == (1, 0)


# --- the cache


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def of_another_shape(path: Path) -> None:
    np.save(path, np.load(path).T)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def lengthened(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("damage", [truncated, of_another_shape, emptied, lengthened, Path.unlink])
def test_a_broken_or_missing_file_is_made_again(store: Lake, damage) -> None:
    cases, _, values = expected(store, ["whole"])
    read(store, cases)
    (path,) = files(store)
    sound = path.read_bytes()
    damage(path)
    assert read(store, cases).tobytes() == values.tobytes()
    assert path.read_bytes() == sound


def test_a_file_is_what_numpy_reads(store: Lake) -> None:
    cases, _, values = expected(store, ["whole"])
    read(store, cases)
    (path,) = files(store)
    np.testing.assert_array_equal(np.load(path), values)


def test_a_reader_that_may_not_write_reads_the_table(store: Lake, caplog: pytest.LogCaptureFixture) -> None:
    cases, _, values = expected(store, ["o'dd/.."])
    store.home.cache.write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert read(store, cases).tobytes() == values.tobytes()
    assert any("vectors are read from the table" in message for message in caplog.messages)


def test_a_full_disk_leaves_nothing_behind(store: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cases, _, values = expected(store, ["whole"])
    monkeypatch.setattr(vector_cache.os, "fsync", full)
    assert read(store, cases).tobytes() == values.tobytes()
    assert files(store) == []


def test_other_rows_are_another_file_and_the_old_one_is_collected(store: Lake) -> None:
    cases, _, values = expected(store, ["whole"])
    read(store, cases)
    (old,) = files(store)
    (old.parent / ".partial-of-a-killed-process").write_bytes(b"x")
    with store.reader() as before:
        publish(store, cohort_writes("whole", {1: sorted(GENES)}, 30, seed=2), "publish cohort whole")
        assert open_vectors(store.home, before, cases, "rna").rows(range(30)).tobytes() == values.tobytes()
    new_cases, _, new_values = expected(store, ["whole"])
    assert read(store, new_cases).tobytes() == new_values.tobytes() != values.tobytes()
    with store.reader() as connection:
        live = {digest for (digest,) in connection.execute("SELECT content_sha256 FROM publications").fetchall()}
    assert collect_cache(store.home, live) == 2
    (new,) = files(store)
    assert new != old
    assert collect_cache(store.home, set()) == 1


def test_a_dropped_cohort_leaves_the_others(store: Lake) -> None:
    cases, _, values = expected(store, ["whole", "o'dd/.."])
    mapped = read(store, cases)
    assert drop_cohort(store.home, "o'dd/..") == 2
    assert len(files(store)) == 1
    assert drop_cohort(store.home, "never there") == 0
    assert mapped.tobytes() == read(store, cases).tobytes() == values.tobytes()


# --- a gene over all cases


def test_a_row_per_feature_holds_the_values_of_all_cases(store: Lake) -> None:
    with store.reader() as connection:
        rows = pl.DataFrame(connection.execute('FROM "rna_by_feature"').to_arrow_table())
        rna = pl.DataFrame(connection.execute('FROM "rna"').to_arrow_table()).sort("case_id")
        panels = pl.DataFrame(connection.execute('FROM "gene_panels"').to_arrow_table())
    assert rows.height == panels.height == len(GENES) + 40 + 70
    for row in rows.iter_rows(named=True):
        panel = panels.filter(panel_id=row["panel_id"], cohort=row["cohort"], feature=row["feature"]).row(0, named=True)
        vectors = rna.filter(panel_id=row["panel_id"], cohort=row["cohort"])["values"].to_list()
        np.testing.assert_array_equal(row["values"], [vector[panel["position"]] for vector in vectors])
        assert (row["feature_lookup"], row["unit"]) == (row["feature"].lower(), UNIT)


@pytest.mark.parametrize("gene", ["G025", "c1ORF112", "C1QA"])
def test_a_gene_across_cohorts_and_panels(store: Lake, gene: str) -> None:
    with analyst_connection(store.home) as analyst:
        found = analyst.query("FROM gene_expression($gene)", {"gene": gene}).to_pylist()
    with store.reader() as connection:
        pairs = connection.execute(
            'SELECT r.case_id, r."values"[p.position + 1] FROM rna AS r JOIN gene_panels AS p USING (cohort, panel_id) '
            "WHERE lower(p.feature) = lower(?)",
            [gene],
        ).fetchall()
    want = [(case_id, None if math.isnan(value) else value) for case_id, value in pairs]
    assert len(want) == {"G025": 30 + 20 + 7}.get(gene, 30)
    assert sorted(((row["case_id"], row["value"]) for row in found), key=str) == sorted(want, key=str)


def test_a_gene_reads_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small groups, each with genes of its own: what the query's speed rests on."""
    monkeypatch.setattr(publishing, "_ROW_GROUP_BYTES", 1)
    lake = Lake(Home(tmp_path / "home"))
    publish(lake, cohort_writes("whole", {1: sorted(GENES)}, 30), "publish cohort whole")
    with lake.reader() as connection:
        ((path, *_),) = rows_in_files(connection, RNA_BY_FEATURE.name)
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    assert sorted(group.num_rows for group in groups) == sorted([64, 64, len(GENES) - 128])  # DuckDB writes them in any order
    column = list(RNA_BY_FEATURE.schema).index("feature_lookup")
    ranges = sorted((group.column(column).statistics.min, group.column(column).statistics.max) for group in groups)
    assert all(low <= high for low, high in ranges)
    assert all(ranges[index][1] < ranges[index + 1][0] for index in range(2))


def test_staging_and_publishing_give_both_ways(published_home: Home, dirty_landing: Path, synthetic_contract: Contract) -> None:
    staged = stage(synthetic_contract, dirty_landing, published_home)
    for name in ("rna", "copy_number"):
        rows = staged.table(f"{name}_by_feature")
        assert rows["feature_lookup"].is_sorted()
        matrix = np.stack(staged.table(name).sort("case_id")["values"].to_list())
        panel = staged.table("gene_panels").filter(pl.col("modality") == name).sort("position")["feature"].to_list()
        for feature, values in rows.select("feature", "values").iter_rows():
            np.testing.assert_array_equal(values, matrix[:, panel.index(feature)])
    assert not staged.table("rna_by_feature", ["elsewhere"]).height
