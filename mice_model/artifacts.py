"""A model version on disk: weights and fitted pipeline as safetensors plus JSON, never pickles. Written beside and renamed.

Layout below `models/<model_version>/`: plan.json, counts.json, seconds.json, fold-<k>/pipeline.*, fold-<k>/pretrained-seed<s>.*,
fold-<k>/<cancer_type>-seed<s>.*, predictions.parquet, evaluations.parquet, summary.json; a `.json` beside each `.safetensors` is
written last, so it marks the pair complete.
"""

import hashlib
import json
import os
import uuid
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from mice_model.code_version import code_hash
from mice_model.design_matrix import CategoricalColumn, ClinicalDesign, NumericColumn
from mice_model.evaluation import TrainingCurve
from mice_model.preprocessing import FeaturePipeline, MutationPart, Scaler, VectorPart
from mice_model.study import Study
from mice_model.text import TextEncoder


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


def network_path(folder: Path, fold: int, cancer_type: str, seed: int) -> Path:
    """Return where a network lies; no cancer type names the pre-trained one."""
    return folder / f"fold-{fold}" / f"{cancer_type or 'pretrained'}-seed{seed}"


def load_network(path: Path) -> tuple[dict[str, Tensor], TrainingCurve] | None:
    """Return the weights and curve saved at `path`, or None if there is no complete pair."""
    found, curve = load_pair(path), load_curve(path)
    if found is None or curve is None:
        return None
    return {name: torch.from_numpy(array) for name, array in found[0].items()}, curve


def save_pipeline(path: Path, pipeline: FeaturePipeline) -> None:
    """Save a fitted pipeline: its arrays, and its names and numbers."""
    arrays: dict[str, Any] = {}
    about = {f.name: _split(getattr(pipeline, f.name), f.name, arrays) for f in fields(pipeline)}
    save_pair(path, arrays, about)


def load_pipeline(path: Path) -> FeaturePipeline | None:
    """Return the pipeline saved at `path`, or None if there is no complete pair."""
    found = load_pair(path)
    if found is None:
        return None
    arrays, about = found

    def scaler(name: str, plain: dict[str, Any]) -> Scaler:
        return Scaler(arrays[f"{name}.mean"], arrays[f"{name}.std"], plain["clip"])

    parts: dict[str, Any] = {}
    for name, plain in about.items():
        if plain is None:
            parts[name] = None
        elif name in {"rna", "copy_number"}:
            parts[name] = VectorPart(tuple(plain["features"]), scaler(f"{name}.scaler", plain["scaler"]))
        elif name == "mutations":
            parts[name] = MutationPart(tuple(plain["genes"]), scaler(f"{name}.scaler", plain["scaler"]))
        elif name == "text":
            parts[name] = TextEncoder(tuple(plain["terms"]), arrays["text.idf"], arrays["text.components"])
        elif name == "clinical":
            parts[name] = ClinicalDesign(
                tuple(NumericColumn(**column) for column in plain["numeric"]),
                tuple(CategoricalColumn(**{**c, "categories": tuple(c["categories"])}) for c in plain["categorical"]),
                tuple(plain["left_out"]),
            )
        else:
            parts[name] = scaler(name, plain)
    return FeaturePipeline(**parts)


def _split(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """Move the arrays in a tree of dataclasses to `arrays`, by dotted name; return the rest as JSON types."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return None
    if is_dataclass(value):
        return {f.name: _split(getattr(value, f.name), f"{name}.{f.name}", arrays) for f in fields(value)}
    if isinstance(value, tuple):
        return [_split(item, f"{name}.{index}", arrays) for index, item in enumerate(value)]
    return value
