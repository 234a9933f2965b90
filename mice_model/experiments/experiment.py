"""An experiment (`experiments/<name>.yaml`): a study, and what each variant changes in it. Typed, frozen.

What belongs here: reading the file and turning a variant into a study. Training and comparing are run.py's.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feature_store.errors import MiceError
from mice_model.experiments.names import CHECKS
from mice_model.study import Study, merged, with_preset

BASE = "base"  # the variant that changes nothing
_OWN_KEYS = {"name", "description"}  # they enter the model version, so equal variants must have equal ones


class ExperimentError(MiceError):
    """An experiment is malformed, or its variants cannot be compared."""


class Experiment(BaseModel):
    """Variants of a study.

    `base`: the study that is taken unless another is named. `variants`: name -> what it changes, merged into the study at any
    depth; null sets back to study.py's default, a preset brings its settings. `reference`: the variant that the others are
    compared with; by default `base`, which changes nothing and is run too. `figure`: `data_efficiency` is the C-index over
    `training_share`, the draws of a share as one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    caption: str
    base: str
    variants: dict[str, dict[str, Any]] = Field(min_length=1)
    reference: str = BASE
    figure: Literal["ablation", "data_efficiency"] = "ablation"

    @property
    def all_variants(self) -> dict[str, dict[str, Any]]:
        """All that is run, the one that changes nothing first where it is the reference."""
        return {BASE: {}, **self.variants} if self.reference == BASE else self.variants


def load_experiment(path: Path) -> Experiment:
    """Read and validate an experiment. Raises ExperimentError naming the file and the offending fields."""
    if not path.is_file():
        known = [*sorted(p.stem for p in path.parent.glob("*.yaml")), *CHECKS]
        raise ExperimentError(f"experiment {path.stem}: no file {path}, expected one of {known}. Check the name.")
    try:
        experiment = Experiment.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ExperimentError(f"experiment {path}: not valid YAML ({error}). Correct the file.") from error
    except ValidationError as error:
        raise ExperimentError(f"experiment {path}: {_problems(error)}. Correct the file.") from error
    if experiment.reference not in experiment.all_variants or BASE in experiment.variants:
        found = f"reference {experiment.reference!r} of variants {sorted(experiment.variants)}"
        raise ExperimentError(f"experiment {path}: {found}, expected one of them, or {BASE!r}, which is no variant's name.")
    return experiment


def variant_studies(experiment: Experiment, base: Study, *, is_quick: bool = False) -> dict[str, Study]:
    """Return the study of every variant; `is_quick`: with the first seed and the first two folds only."""
    return {name: variant_study(base, changes, name, is_quick=is_quick) for name, changes in experiment.all_variants.items()}


def variant_study(base: Study, changes: Mapping[str, Any], variant: str = "", *, is_quick: bool = False) -> Study:
    """Return `base` with changes: `base` itself where they change nothing, so that its trained version serves.

    Of others, name and description follow from what they are, so equal variants of two experiments are trained once. They train
    no baseline networks unless they say so. Raises ExperimentError naming the variant.
    """
    refused = _OWN_KEYS & set(changes)
    if refused:
        raise ExperimentError(f"variant {variant!r}: changes {sorted(refused)}, expected none of these. Take it out.")
    before = base.model_dump(mode="json")
    try:
        study = Study.model_validate(_reset(merged(before, with_preset(changes)), before))
    except ValidationError as error:
        raise ExperimentError(f"variant {variant!r} of study {base.name}: {_problems(error)}. Correct the variant.") from error
    if is_quick:
        study = quick(study)
    if study == base:
        return base
    if "baselines" not in changes:
        study = study.model_copy(update={"baselines": ()})
    words = "; ".join(f"{key} {value}" for key, value in changes_of(base, study).items())
    content = study.model_dump_json(exclude=_OWN_KEYS)
    name = f"{base.name}--{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return study.model_copy(update={"name": name, "description": f"{base.name} with {words}"})


def quick(study: Study) -> Study:
    """Return the study with its first seed and its first two folds only."""
    return study.model_copy(update={"seeds": study.seeds[:1], "folds": study.folds[:2]})


def _reset(plain: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values without those that are None, so that defaults hold; one unknown `before` is left to be refused."""
    found = {}
    for key, value in plain.items():
        below = before.get(key)
        if isinstance(value, Mapping):
            found[key] = _reset(value, below if isinstance(below, Mapping) else {})
        elif value is not None or key not in before:
            found[key] = value
    return found


def changes_of(base: Study, study: Study) -> dict[str, str]:
    """Return in words what differs, by dotted name; names and descriptions aside."""
    before, after = (each.model_dump(mode="json", exclude=_OWN_KEYS) for each in (base, study))
    return {key: _words(value) for key, value in _different(before, after, "")}


def _different(before: Mapping[str, Any], after: Mapping[str, Any], above: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _different(old, new, f"{above}{key}.")
        elif old != new:
            found.append((f"{above}{key}", new))
    return found


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "on"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
