"""The questions of benchmarks/store.py asked of plain Parquet with pandas, and of Feast's offline store in its own interpreter.

What belongs here: the other tools' files, made from what our store holds, and their figures.
"""

import json
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.store_own import BATCH, NUM_BATCHES, NUM_GENES_ASKED, ROOT, median_s, say, seconds
from feature_store.vector_cache import Matrix

NUM_FEAST_GENES = 200  # Feast's registry names every feature: 20,245 of them would be measured instead of the question
FEAST_TIMEOUT_S = 600


def plain(
    folder: Path, values: Matrix, genes: list[str], small: dict[str, pd.DataFrame], case_ids: list[str]
) -> dict[str, float]:
    """Return pandas' figures over one wide file of cases by genes, as to_parquet makes it, and a file per small table."""
    for name, frame in small.items():
        frame.to_parquet(folder / f"{name}.parquet")
    wide = folder / "rna.parquet"
    columns = pa.table([pa.array(case_ids), *(pa.array(column) for column in values.T)], names=["case_id", *genes])
    pq.write_table(columns, wide)
    del columns
    say("plain Parquet is written")
    rng = np.random.default_rng(4)
    asked = [genes[index] for index in rng.choice(len(genes), NUM_GENES_ASKED, replace=False)]
    taken = [seconds(lambda: pd.read_parquet(wide, columns=["case_id", gene])) for gene in asked]  # noqa: B023 - used within the turn
    batch = [case_ids[index] for index in rng.choice(len(case_ids), BATCH, replace=False)]
    filtered_s = seconds(lambda: pd.read_parquet(wide, filters=[("case_id", "in", batch)]))
    start = time.perf_counter()
    loaded = pd.read_parquet(wide).set_index("case_id")
    load_s = time.perf_counter() - start
    rows = [rng.integers(0, len(case_ids), BATCH) for _ in range(NUM_BATCHES)]
    in_memory_s = statistics.median(seconds(partial(_rows, loaded, row)) for row in rows)
    num_bytes = BATCH * len(genes) * 4
    rewritten = {name: small[name] for name in ("clinical", "endpoints", "folds", "modality_matrix")}
    return {
        "open_s": median_s(lambda: len(pd.read_parquet(folder / "patch_bags.parquet"))),
        "commit_s": median_s(  # four small tables, one after the other: a reader may see some of them
            lambda: [frame.to_parquet(folder / f"new-{name}.parquet") for name, frame in rewritten.items()]
        ),
        "modality_matrix_ms": median_s(lambda: pd.read_parquet(folder / "modality_matrix.parquet")) * 1e3,
        "gene_across_cases_ms": statistics.median(taken[1:]) * 1e3,
        "case_vectors_gb_s": num_bytes / 1e9 / filtered_s,
        "case_vectors_in_memory_gb_s": num_bytes / 1e9 / in_memory_s,
        "load_all_s": load_s,
        "memory_mb": loaded.memory_usage(index=False).sum() / 1e6,
        "rna_file_mb": wide.stat().st_size / 1e6,
    }


def _rows(frame: pd.DataFrame, rows: NDArray[np.integer]) -> Matrix:
    return frame.iloc[rows].to_numpy()


def feast(
    python: Path, folder: Path, values: Matrix, genes: list[str], matrix: pd.DataFrame, case_ids: list[str]
) -> dict[str, object]:
    """Return the figures of store_feast.py under `python`, or {"error": its last line} if it fails."""
    stamp = pd.Timestamp("2020-01-01", tz="UTC")
    known = pd.DataFrame({"case_id": case_ids, "event_timestamp": stamp})
    states = matrix.pivot_table(index="case_id", columns="modality", values="state", aggfunc="first").reset_index()
    states.assign(event_timestamp=stamp).to_parquet(folder / "modality_matrix.parquet")
    some = pd.DataFrame(values[:, :NUM_FEAST_GENES], columns=genes[:NUM_FEAST_GENES])
    pd.concat([known, some], axis=1).to_parquet(folder / "genes.parquet")
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]).cast(pa.list_(pa.float32()))
    pq.write_table(pa.Table.from_pandas(known).append_column("values", lists), folder / "vectors.parquet", row_group_size=1000)
    del lists
    say("Feast's files are written")
    command = [str(python), str(ROOT / "benchmarks" / "store_feast.py"), str(folder)]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FEAST_TIMEOUT_S, check=True)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {FEAST_TIMEOUT_S} s"}
    except subprocess.CalledProcessError as error:
        return {"error": ([error.returncode, *error.stderr.strip().splitlines()])[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))
