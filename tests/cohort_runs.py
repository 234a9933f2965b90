"""What the tests that bring a cohort to predictions share: the graph, in this process and on one thread."""

from collections.abc import Sequence

import polars as pl
import torch

from dagster_project.launch import materialize_cohorts, open_instance, train
from dagster_project.resources import Platform
from feature_store.lake import Lake

# The study files of such tests: as little of a network as there can be.
SMALL = {
    "folds": [0, 1],
    "network": {"width": 16, "overlapping_ranks": [2, 4], "top_k": 1, "expert_rank": 4, "num_time_bins": 3},
    **{stage: {"epochs": 1, "batch_size": 32, "epoch_selection": "fixed"} for stage in ("pretrain", "finetune")},
}


def predictions(platform: Platform, cohorts: Sequence[str] = ()) -> pl.DataFrame:
    """Publish the cohorts, train the platform's study on what is published, and return its predictions."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other on a busy machine
    try:
        with open_instance(platform.home.dagster) as instance:
            materialize_cohorts(platform, instance, cohorts)
            train(platform, instance)
    finally:
        torch.set_num_threads(num_threads)
    with Lake(platform.home).reader() as connection:
        return pl.DataFrame(connection.execute("SELECT * FROM predictions").to_arrow_table())
