"""Embedding the reports of a cohort as it is published, some hundred at a time, each lot published when it is done.

A run that is killed goes on at the first lot that was not. Equal texts are embedded once a lot.
"""

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from feature_store.home import Home
from feature_store.lake import Lake
from feature_store.progress import tracked
from feature_store.publish import publish_report_embeddings
from feature_store.report_embeddings import pending_reports
from feature_store.report_encoding import ReportEncoding
from feature_store.tables import REPORT_EMBEDDINGS
from mice_model.outcome_words import OutcomeWords
from mice_model.report_cleaning import prepared
from mice_model.report_embedding.encoder import ReportEncoder, open_report_encoder

logger = logging.getLogger(__name__)

_LOT = 256


@dataclass(frozen=True)
class ReportsEmbedded:
    """What a run did for one cohort: `num_new` embeddings, by weights of `encoder_sha256`, and what was found in their texts."""

    cohort: str
    encoder: str
    num_new: int
    num_windows: int
    encoder_sha256: str
    outcome_words: OutcomeWords


def open_encoder(encoding: ReportEncoding, encoders: Path, device: str = "", *, uses_hub: bool = False) -> ReportEncoder:
    """Return the encoder of a kind of embedding. Raises EncoderError, see `open_report_encoder`."""
    return open_report_encoder(encoding.encoder, encoders, encoding.pooling, device, uses_hub=uses_hub)


@lru_cache(maxsize=1)
def _opened(encoding: ReportEncoding, encoders: Path) -> ReportEncoder:
    return open_encoder(encoding, encoders)


def embed_for_study(encoding: ReportEncoding | None, home: Home, cohort: str) -> ReportsEmbedded | None:
    """Embed a cohort's reports as a study asks; None where it asks for no embeddings. Weights lie in the home, or it fails."""
    return None if encoding is None else embed_reports(home, cohort, encoding, _opened(encoding, home.encoders))


def embed_reports(home: Home, cohort: str, encoding: ReportEncoding, encoder: ReportEncoder) -> ReportsEmbedded:
    """Embed the reports of a cohort that have no embedding by this encoder yet, and publish them."""
    lake = Lake(home)
    pending = pending_reports(lake, cohort, encoding, encoder.sha256)
    texts = prepared(pending["text"].to_list(), pending["case_id"].to_list(), encoding.outcome_words)
    num_windows, rows = 0, []
    lots = pending.drop("text").with_columns(
        pl.Series("_text", texts.texts, dtype=pl.String), pl.Series("num_outcome_words", texts.num_places, dtype=pl.Int32)
    )
    done = tracked(lots.iter_rows(named=True), f"{cohort}: reports by {encoding.encoder}", lots.height)
    known: dict[str, tuple[list[float], int]] = {}
    for number, row in enumerate(done, start=1):
        text = row.pop("_text") or ""
        if text not in known:
            found = encoder.encode(text)
            known[text] = found.vector.tolist(), len(found.windows)
        row["embedding"], row["num_windows"] = known[text]
        num_windows += row["num_windows"]
        rows.append({**row, **vars(encoding), "encoder_sha256": encoder.sha256})
        if len(rows) == _LOT or number == lots.height:
            publish_report_embeddings(lake, cohort, pl.DataFrame(rows, schema_overrides=REPORT_EMBEDDINGS.schema))
            rows, known = [], {}
    return ReportsEmbedded(cohort, encoding.encoder, lots.height, num_windows, encoder.sha256, texts.outcome_words)
