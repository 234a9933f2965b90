"""Which trained networks speak for a study, and which of them for one case. Nothing is trained or planned here."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from feature_store.errors import ModelMissingError
from feature_store.home import Home
from mice_model.artifacts import model_version, network_path
from mice_model.data import StudyData, newest_training_set
from mice_model.study import Study

_WHOLE_PAIR = (".safetensors", ".json")


@dataclass(frozen=True)
class TrainedModel:
    """A model version whose networks are all there, with the study and the snapshot it was trained on.

    `is_current`: it is what the study, as it is written now, the newest data and this code would give.
    """

    version: str
    folder: Path
    study: Study
    snapshot_id: int
    is_current: bool


@dataclass(frozen=True)
class Networks:
    """The networks that score a case: those of `folds`, fine-tuned on `cancer_type`, or pre-trained only where it is "".

    `is_held_out`: none of them, and nothing fitted before them, saw the case.
    """

    folds: tuple[int, ...]
    cancer_type: str
    is_held_out: bool


def find_trained(study: Study, home: Home, cohorts: Sequence[str]) -> TrainedModel:
    """Return the study's current model version if it is trained, else the one of its name that was planned last.

    Raises ModelMissingError where no version of the study has all of its networks.
    """
    _, set_id = newest_training_set(study, home, cohorts)
    current = model_version(study, set_id)
    known = [(folder, plan) for folder, plan in _plans(home) if plan["study"].get("name") == study.name]
    for folder, plan in sorted(known, key=lambda one: one[0].name != current):
        try:
            planned = Study.model_validate(plan["study"])
        except ValidationError:  # of a version that had other settings
            continue
        if _is_trained(folder, planned):
            return TrainedModel(folder.name, folder, planned, int(plan["snapshot_id"]), folder.name == current)
    found = f"{len(known)} versions, none with all of its networks" if known else "no trained version"
    raise ModelMissingError(
        f"study {study.name}: {found} in {home.models}, expected one. Train it: mice run --study {study.name}."
    )


def networks_of(data: StudyData, row: int) -> Networks:
    """Return which networks score the case of a row: those of the fold it is held out in, or of all folds if there is none."""
    study, fold = data.study, int(data.fold[row])
    cancer_type = data.training_set.cases["cancer_type"][row]
    is_held_out = fold in study.folds
    return Networks((fold,) if is_held_out else study.folds, cancer_type if cancer_type in study.evaluate else "", is_held_out)


def _plans(home: Home) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the model versions with what they were planned as, the newest first."""
    for path in sorted(home.models.glob("*/plan.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            is_plan = isinstance(plan["study"], dict) and isinstance(plan["snapshot_id"], int)
        except (ValueError, KeyError, TypeError):
            continue
        if is_plan:
            yield path.parent, plan


def _is_trained(folder: Path, study: Study) -> bool:
    networks = [
        network_path(folder, k, name, seed) for k in study.folds for name in ("", *study.evaluate) for seed in study.seeds
    ]
    pipelines = [folder / f"fold-{fold}" / "pipeline" for fold in study.folds]
    return all(path.with_name(path.name + ending).is_file() for path in (*networks, *pipelines) for ending in _WHOLE_PAIR)
