"""A model version on disk: weights and fitted pipeline as safetensors plus JSON, never pickles. Written beside and renamed.

Layout below `models/<model_version>/`: plan.json, counts.json, seconds.json, fold-<k>/pipeline.*, fold-<k>/skip.*,
fold-<k>/pretrained-seed<s>.*, fold-<k>/<cancer_type>-seed<s>.*, the same in fold-<k>/<baseline>/, predictions.parquet,
evaluations.parquet, summary.json; a `.json` beside each `.safetensors` is written last, so it marks the pair complete.
"""

import hashlib
import json
import os
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from mice_model.array_trees import put_together, take_apart
from mice_model.code_version import code_hash
from mice_model.evaluation import TrainingCurve
from mice_model.study import Study

Fitted = TypeVar("Fitted")


def model_version(study: Study, training_set_id: str) -> str:
    """Return the content hash of everything a model follows from: study, training set and the model's code."""
    return hashlib.sha256(f"{study.model_dump_json()}\n{training_set_id}\n{code_hash()}".encode()).hexdigest()[:16]


def save_pair(path: Path, arrays: dict[str, Any], about: dict[str, Any]) -> None:
    """Write `path`.safetensors and then `path`.json, each complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    partial.replace(path.with_name(path.name + ".safetensors"))
    write_json(path.with_name(path.name + ".json"), about)


def load_pair(path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return (arrays, about) of a complete pair, or None."""
    about = path.with_name(path.name + ".json")
    if not about.is_file():
        return None
    return load_file(path.with_name(path.name + ".safetensors")), json.loads(about.read_text(encoding="utf-8"))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def save_network(path: Path, state: dict[str, Tensor], curve: TrainingCurve) -> None:
    """Save a network's weights with the curve of the fit that made them."""
    save_pair(path, {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}, asdict(curve))


def load_curve(path: Path) -> TrainingCurve | None:
    """Return the curve of the fit saved at `path`, or None if there is no complete pair."""
    about = path.with_name(path.name + ".json")
    if not about.is_file():
        return None
    plain = json.loads(about.read_text(encoding="utf-8"))
    fields_by_name: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
    return TrainingCurve(**fields_by_name)


def network_path(folder: Path, fold: int, cancer_type: str, seed: int, kind: str = "") -> Path:
    """Return where a network lies; no cancer type names the pre-trained one, `kind` a baseline's."""
    return folder / f"fold-{fold}" / kind.replace(":", "-") / f"{cancer_type or 'pretrained'}-seed{seed}"


def load_network(path: Path) -> tuple[dict[str, Tensor], TrainingCurve] | None:
    """Return the weights and curve saved at `path`, or None if there is no complete pair."""
    found, curve = load_pair(path), load_curve(path)
    if found is None or curve is None:
        return None
    return {name: torch.from_numpy(array) for name, array in found[0].items()}, curve


def save_fitted(path: Path, fitted: Any) -> None:
    """Save what was fitted on training cases, a tree of dataclasses: its arrays, and its names and numbers."""
    arrays: dict[str, Any] = {}
    about = take_apart(fitted, "", arrays)
    save_pair(path, arrays, about)


def load_fitted(path: Path, kind: type[Fitted]) -> Fitted | None:
    """Return what was saved at `path`, a `kind`, or None if there is no complete pair."""
    found = load_pair(path)
    if found is None:
        return None
    fitted: Fitted = put_together(kind, found[1], "", found[0])
    return fitted
