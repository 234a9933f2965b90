"""A small cohort of whole slides, for tests and faults: its contract, its tables, and synthetic slides of its cases."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from faults.pyramids import Blob, write_pyramid
from feature_store.contract import Contract

CONTRACT = r"""
name: scans
title: A clinic that scans its slides
licence: made by the project
citation: made by the project
time_zero: biopsy
cohorts: [scans]
case_id: {pattern: "(TCGA-[A-Z0-9]{2}|CMU|S)-[0-9]{4}"}
cases:
  path: cases.csv
  case_id: {column: case}
  cohort: {always: scans}
  project_id: {always: scans}
  cancer_type: {columns: [site]}
clinical:
  path: cases.csv
  case_id: {column: case}
  columns: {age_at_diagnosis_years: {columns: [age]}}
endpoints:
  path: cases.csv
  case_id: {column: case}
  endpoints:
    os: {duration: days, unit: days, event: died, events: {"0": false, "1": true}}
slides:
  - layout: slide_folder
    files: wsi/*.svs
    name: (?i:(?P<slide_id>(?P<case_id>(TCGA-[A-Z0-9]{2}|CMU|S)-[0-9]{4})[^/]*))\.svs$
    encoder: {name: classical, dim: 57}
    patches: {mpp: 0.5, size_px: 256}
split: {kind: random, name: scans-2fold, num_folds: 2, seed: 0}
"""
# Slides of one to a few dozen patches.
SIDE_PX = 1_280


def contract(**slide_keys: Any) -> Contract:
    """Return the contract, with keys of its slide source added or replaced."""
    said = yaml.safe_load(CONTRACT)
    said["slides"][0] |= slide_keys
    return Contract.model_validate(said)


def write_tables(landing: Path, case_ids: list[str]) -> None:
    """Write the cohort's table: half of the cases die."""
    rng = np.random.default_rng(0)
    rows = ["case,site,age,days,died"]
    for number, case_id in enumerate(case_ids):
        site, died = ("larynx", "tongue")[number % 2], int(number % 4 < 2)
        rows.append(f"{case_id},{site},{rng.integers(40, 80)},{rng.integers(100, 2000)},{died}")
    landing.mkdir(parents=True, exist_ok=True)
    (landing / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_slides(landing: Path, case_ids: list[str]) -> None:
    """Write a slide for each case, each with other tissue at another place."""
    (landing / "wsi").mkdir(parents=True, exist_ok=True)
    for number, case_id in enumerate(case_ids):
        pieces = (Blob(0.3 + 0.05 * (number % 5), 0.5, 0.24, 0.38),)
        path = landing / "wsi" / f"{case_id}.svs"
        write_pyramid(path, SIDE_PX, SIDE_PX, mpp=0.5, pieces=pieces, downsamples=(1, 4), seed=number)
