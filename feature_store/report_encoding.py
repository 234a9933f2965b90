"""What names one kind of report embedding; plain data, which studies and the store have in common."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReportEncoding:
    """Encoder, `pooling` (mean or cls) and `outcome_words` (mask or flag): columns of report_embeddings."""

    encoder: str
    pooling: Literal["mean", "cls"]
    outcome_words: Literal["mask", "flag"]
