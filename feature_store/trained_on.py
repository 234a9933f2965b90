"""Which networks of which models saw a case: the training protocol's rule (docs/studies.md), asked per case.

What belongs here: reading models/<version>/ (plan.json, fold folders) and the folds of the snapshot a model was trained on.
The rule itself is the model package's, which is above this one; tests hold the two together.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb

from feature_store.errors import MiceError
from feature_store.home import Home
from feature_store.lake import Lake


@dataclass(frozen=True)
class Trained:
    """A model version and one case: `fold` is where the case was held out (None: in no fold, so it only ever trained).

    `saw` and `did_not_see` name the networks and fitted pipelines on disk (fold-0/pipeline, fold-1/brca-seed0). `note` says why
    nothing can be said, or that the case is no part of the model's training set.
    """

    model_version: str
    study: str
    snapshot_id: int | None
    code: str
    fold: int | None
    saw: tuple[str, ...] = ()
    did_not_see: tuple[str, ...] = ()
    note: str = ""


def models_trained_on(home: Home, case_id: str) -> list[Trained]:
    """Return an entry for every model folder: a case may have been trained on although it is in the store no more."""
    plans = [(folder, _plan(folder)) for folder in sorted(home.models.glob("*")) if folder.is_dir()]
    found = {folder: plan for folder, plan in plans if isinstance(plan, Trained)}
    of_snapshot: dict[int, list[tuple[Path, _Plan]]] = {}
    for folder, plan in plans:
        if isinstance(plan, _Plan):
            of_snapshot.setdefault(plan.snapshot_id, []).append((folder, plan))
    for snapshot_id, group in of_snapshot.items():
        try:
            with Lake(home).reader(snapshot_id) as connection:
                found |= {folder: _entry(connection, folder, plan, case_id) for folder, plan in group}
        except (MiceError, duckdb.Error) as error:  # no such snapshot any more, or a file of it is gone
            note = f"snapshot {snapshot_id} cannot be read: unknown whether it was trained on the case ({error})"
            found |= {folder: plan.about(folder, note=note) for folder, plan in group}
    return [found[folder] for folder, _ in plans]


@dataclass(frozen=True)
class _Plan:
    """What plan.json says that matters here; `study` is the whole study."""

    snapshot_id: int
    code: str
    study: dict[str, Any]

    def about(self, folder: Path, fold: int | None = None, note: str = "") -> Trained:
        """Return an entry that names no networks yet."""
        return Trained(folder.name, str(self.study["name"]), self.snapshot_id, self.code, fold, note=note)


def _plan(folder: Path) -> "_Plan | Trained":
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        study = {name: plan["study"][name] for name in ("name", "contracts", "endpoint", "split", "leave_out_cancer_types")}
        return _Plan(int(plan["snapshot_id"]), str(plan.get("code", "")), study)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Trained(folder.name, "", None, "", None, note=f"no readable plan.json ({error!r}): unknown what it was trained on")


def _entry(connection: duckdb.DuckDBPyConnection, folder: Path, plan: _Plan, case_id: str) -> Trained:
    row = connection.execute(
        "SELECT c.cancer_type, f.fold FROM cases c "
        "JOIN endpoints e ON e.case_id = c.case_id AND e.cohort = c.cohort AND e.endpoint = $endpoint "
        "LEFT JOIN folds f ON f.case_id = c.case_id AND f.cohort = c.cohort AND f.split = $split "
        "WHERE c.case_id = $case_id AND c.cohort IN (SELECT cohort FROM sources WHERE list_contains($contracts, contract))",
        {"case_id": case_id, **{name: plan.study[name] for name in ("endpoint", "split", "contracts")}},
    ).fetchone()
    if row is None or row[0] in plan.study["leave_out_cancer_types"]:
        return plan.about(folder, note="not in its training set")
    # Fine-tuning starts from the fold's pre-trained weights, so what those saw, a fine-tuned network of any cancer type saw too.
    saw: list[str] = []
    did_not_see: list[str] = []
    for path in sorted(folder.glob("fold-*/*.safetensors")):
        held_out = path.parent.name.removeprefix("fold-")
        (did_not_see if held_out == str(row[1]) else saw).append(f"{path.parent.name}/{path.stem}")
    return replace(plan.about(folder, fold=row[1]), saw=tuple(saw), did_not_see=tuple(did_not_see))
