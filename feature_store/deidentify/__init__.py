"""De-identification of a cohort while it is ingested, where its contract asks for it (docs/deidentification.md).

Ingest reads and joins with the identifiers of the sources; what it hands on to be written has none (deidentifier.py). Log lines,
errors and paths are told by shape (messages.py), texts are scrubbed (texts.py).
"""

from feature_store.deidentify.deidentifier import Deidentifier
from feature_store.deidentify.messages import Messages, hidden

__all__ = ["Deidentifier", "Messages", "hidden"]
