"""Cases as they would be if they lacked a modality: the same inputs, the skip's log risk and the bags without it.

What belongs here: hiding, on top of FoldData, so that a case without its slides is batched as one that never had any.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mice_model.cox_skip import FittedSkip
from mice_model.data import FoldData
from mice_model.preprocessing import Encoded

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def hide(fold_data: FoldData, rows: IntArray, hidden: Mapping[str, BoolArray]) -> FoldData:
    """Return the data of `rows` (m,) with modalities hidden (name -> which of the rows, (m,)); other cases have nothing in it."""
    encoded = fold_data.encoded
    is_present, kept = {}, {}
    for name, there in encoded.is_present.items():
        kept[name] = there[rows] & ~hidden.get(name, np.zeros(len(rows), bool))
        is_present[name] = np.zeros_like(there)
        is_present[name][rows] = kept[name]
    vectors = {}
    for name, values in encoded.vectors.items():
        vectors[name] = np.zeros_like(values)  # pages of rows that stay zero take no memory
        vectors[name][rows] = np.where(kept[name][:, None], values[rows], np.float32(0))
    without = Encoded(vectors, is_present, encoded.parts)
    return replace(fold_data, encoded=without, skip=_skip(fold_data, without, rows))


def _skip(fold_data: FoldData, without: Encoded, rows: IntArray) -> FittedSkip | None:
    """Return the skip with the log risk of `rows` as of what is left; of a case that lost nothing it is as it was, to the bit."""
    skip, encoded = fold_data.skip, fold_data.encoded
    if skip is None:
        return None
    lost = [encoded.is_present[name][rows] != without.is_present[name][rows] for name in encoded.is_present]
    changed = rows[np.any(lost, axis=0)]
    log_risk = skip.log_risk.copy()
    parts = {name: without.part(name)[changed] for name, _ in skip.skip.parts}
    log_risk[changed] = skip.skip.log_risk(parts, fold_data.data.cancer_index[changed])
    return replace(skip, log_risk=log_risk)
