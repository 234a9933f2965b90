"""Where a case's risk score stands among held-out cases, as the evaluation kept them in the model's folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Standing:
    """Held-out risk scores of the case's cancer type, without the case itself: `everyone` (n,), and `peers` (m,) among them.

    Peers were scored by the networks that score the case; scores of different folds come from different networks. `stored`: the
    case's own score as the evaluation has it, None if it has none.
    """

    everyone: NDArray[np.float64]
    peers: NDArray[np.float64]
    stored: float | None

    def num_lower(self, risk_score: float) -> int:
        """Count the peers whose risk is lower."""
        return int((self.peers < risk_score).sum())


def read_standing(folder: Path, case_id: str, cancer_type: str, folds: tuple[int, ...]) -> Standing | None:
    """Return the standing from a model's folder; None where it is not evaluated, or not for the cancer type."""
    path = folder / "predictions.parquet"
    if not path.is_file():
        return None
    rows = pl.read_parquet(path, columns=["case_id", "cancer_type", "fold", "risk_score"])
    rows = rows.filter(pl.col("cancer_type") == cancer_type)
    if rows.is_empty():
        return None
    own = rows.filter(pl.col("case_id") == case_id)["risk_score"]
    others = rows.filter(pl.col("case_id") != case_id)
    peers = others.filter(pl.col("fold").is_in(folds))
    return Standing(others["risk_score"].to_numpy(), peers["risk_score"].to_numpy(), own[0] if len(own) else None)
