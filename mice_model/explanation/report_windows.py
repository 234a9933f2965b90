"""A case's reports as the windows that a text model read: each one's share in the case's vector, and its text.

What belongs here: reading them once more. How a share becomes a contribution: report_terms.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.errors import EncoderError
from feature_store.home import Home
from feature_store.report_encoding import ReportEncoding
from mice_model.report_cleaning import prepared

_SHOWN = 240  # characters of a window


@dataclass(frozen=True)
class Window:
    """`share` (k,) of a window in the case's vector before scaling; the shares of all windows add up to it."""

    label: str
    share: NDArray[np.float32]


def read_windows(texts: Sequence[str], case_id: str, encoding: ReportEncoding, home: Home) -> tuple[Window, ...] | None:
    """Return the windows of a case's reports in their order; None where the encoder's weights are not at hand (any more)."""
    from mice_model.report_embedding.run import open_encoder  # noqa: PLC0415 - transformers, for such studies only

    try:
        encoder = open_encoder(encoding, home.encoders)
    except EncoderError:  # the page then shows the reports' total alone
        return None
    windows = []
    for number, text in enumerate(prepared(texts, [case_id] * len(texts), encoding.outcome_words).texts, start=1):
        parts, shares = encoder.windows(text or ""), encoder.encode(text or "").windows
        where = f"report {number} of {len(texts)}, " if len(texts) > 1 else ""
        windows += [
            Window(f"{where}window {place} of {len(parts)}: {_shown(part)}", share / len(texts))
            for place, (part, share) in enumerate(zip(parts, shares, strict=True), start=1)
        ]
    return tuple(windows)


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
