"""What the tests of explanations share: a small study, its training, and how to find a case to explain."""

import numpy as np
import pytest
import torch
import yaml

from feature_store.contract import Contract
from feature_store.home import Home
from mice_model import scoring
from mice_model.baselines import BaselineRun
from mice_model.data import StudyData
from mice_model.service import Plan, evaluate_study, finetune_study, plan_training, pretrain_study
from mice_model.study import Study

LIMIT = 18
STUDY = Study.model_validate(
    {
        "name": "tiny",
        "description": "two seeds of a small network",
        "contracts": ["synthetic"],
        "split": "synthetic-3fold",
        "evaluate": ["amber"],
        "folds": [0, 1],
        "seeds": [0, 1],
        "features": {
            "modalities": ["slide", "omics", "report", "clinical"],
            "patches_per_case": LIMIT,
            "report_min_documents": 2,
            "report_components": 8,
        },
        "network": {"width": 8, "omics_hidden": [8], "overlapping_ranks": [2, 3, 4], "top_k": 2, "expert_rank": 2},
        **{stage: {"epochs": 1, "batch_size": 32, "epoch_selection": "fixed"} for stage in ("pretrain", "finetune")},
    }
)


def trained(study: Study, home: Home, contract: Contract) -> Plan:
    """Write a study to its home, train it there, and evaluate it without baselines, which take longest."""
    home.studies.mkdir()
    (home.studies / f"{study.name}.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json")), encoding="utf-8")
    plan = plan_training(study, home, dict.fromkeys(contract.cohorts, contract), num_workers=1)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other on a busy machine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "run_fold_baselines", lambda inputs, seed: [BaselineRun({}, ())] * len(inputs))
        for step in (pretrain_study, finetune_study, evaluate_study):
            step(plan)
    torch.set_num_threads(num_threads)
    return plan


def row_of(data: StudyData, cancer_type: str, folds: tuple[int, ...], *, least_slides: int = 1) -> int:
    """Return a case that has a report and more patches than the limit takes."""
    cases, bags = data.training_set.cases, data.training_set.bags
    for row in np.flatnonzero(np.isin(data.fold, folds) & data.counted.is_present):
        is_large = sum(bag.num_patches for bag in bags[row]) > LIMIT and len(bags[row]) >= least_slides
        if cases["cancer_type"][int(row)] == cancer_type and is_large:
            return int(row)
    raise AssertionError(f"no case of {cancer_type} in {folds}")
