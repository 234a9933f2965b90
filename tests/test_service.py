"""What the service keeps beside a model: how long each stage took, and what an evaluation has to say of its fits."""

import json
import math
from types import SimpleNamespace

import pytest

from mice_model import service
from mice_model.evaluation import TrainingCurve
from mice_model.study import Study

NAN = math.nan


def test_seconds_add_up_over_calls_also_over_one_that_failed(tmp_path, monkeypatch):
    clock = iter([10.0, 12.5, 100.0, 101.25, 200.0, 200.0])
    monkeypatch.setattr(service.time, "monotonic", lambda: next(clock))
    plan = SimpleNamespace(folder=tmp_path)
    with pytest.raises(KeyboardInterrupt), service._timed(plan, "pretrain"):
        raise KeyboardInterrupt
    with service._timed(plan, "pretrain"):
        pass
    with service._timed(plan, "finetune"):
        pass
    assert json.loads((tmp_path / "seconds.json").read_text(encoding="utf-8")) == {"pretrain": 3.75, "finetune": 0.0}


def curve(stage, cancer_type, fold, *scores):
    return TrainingCurve(stage, cancer_type, fold, 0, (1.0,) * len(scores), scores, 0)


def test_fits_whose_epoch_could_not_be_chosen_are_noted():
    study = Study.model_validate(
        {"name": "s", "description": "", "contracts": ["c"], "split": "s", "evaluate": ["amber", "birch"], "folds": [0, 1]}
    )
    curves = [
        curve("pretrain", "", 0, 0.6, 0.7),
        curve("finetune", "amber", 0, NAN, NAN),
        curve("finetune", "amber", 1, NAN, NAN),
        curve("finetune", "birch", 0, NAN, 0.5),
    ]
    (note,) = service._unchosen_epochs(study, curves)
    assert note == (
        "epoch not chosen for finetune of amber (fold 0 seed 0, fold 1 seed 0): too few inner events; the last was kept."
    )
    fixed = study.model_copy(update={"finetune": study.finetune.model_copy(update={"epoch_selection": "fixed"})})
    assert service._unchosen_epochs(fixed, curves) == []
