"""Feast's side of benchmarks/store.py: a script for the interpreter of an environment that has Feast, and none of ours.

Run by store_peers.py: <python> store_feast.py <folder>. In the folder, each with case_id and event_timestamp:
modality_matrix.parquet and genes.parquet (a row per case), vectors.parquet (a list per case). Prints one JSON object.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType, __version__
from feast.types import Array, Float32, String

BATCH = 64


def median_s(ask: Callable[[], object], times: int = 3) -> float:
    ask()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main(folder: Path) -> dict[str, object]:
    """Register three feature views over the Parquet files and ask for their history."""
    case = Entity(name="case", join_keys=["case_id"], value_type=ValueType.STRING)
    kinds = {"modality_matrix": String, "genes": Float32, "vectors": Array(Float32)}
    views = []
    for name, kind in kinds.items():
        path = folder / f"{name}.parquet"
        columns = [one for one in pq.read_schema(path).names if one not in {"case_id", "event_timestamp"}]
        source = FileSource(name=f"{name}_file", path=str(path), timestamp_field="event_timestamp")
        views.append(
            FeatureView(name=name, entities=[case], schema=[Field(name=one, dtype=kind) for one in columns], source=source)
        )
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    start = time.perf_counter()
    store.apply([case, *views])
    found: dict[str, object] = {"version": __version__, "apply_s": time.perf_counter() - start}
    start = time.perf_counter()
    store = FeatureStore(config=config)
    store.list_feature_views()
    found["open_s"] = time.perf_counter() - start
    case_ids = pd.read_parquet(folder / "modality_matrix.parquet", columns=["case_id"])["case_id"]
    now = datetime.now(UTC)

    def ask(features: list[str], ids: pd.Series) -> pd.DataFrame:
        frame = pd.DataFrame({"case_id": ids.to_numpy(), "event_timestamp": now})
        return store.get_historical_features(entity_df=frame, features=features).to_df()

    matrix = [f"modality_matrix:{field.name}" for field in views[0].schema if field.name != "case_id"]
    gene = next(f"genes:{field.name}" for field in views[1].schema if field.name != "case_id")
    found["modality_matrix_ms"] = median_s(lambda: ask(matrix, case_ids)) * 1e3
    found["gene_across_cases_ms"] = median_s(lambda: ask([gene], case_ids)) * 1e3
    batch = pd.Series(np.random.default_rng(0).choice(case_ids, BATCH, replace=False))
    vectors = ask(["vectors:values"], batch)["values"]
    num_bytes = sum(len(one) for one in vectors) * 4
    found["case_vectors_gb_s"] = num_bytes / 1e9 / median_s(lambda: ask(["vectors:values"], batch), times=1)
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
