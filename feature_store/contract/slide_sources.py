"""The layouts in which a contract may name slides and what an encoder made of them."""

from typing import Annotated, Literal

from pydantic import Field

from feature_store.contract.fields import ColumnPattern, SlideFiles
from feature_store.contract.rules import Encoder
from feature_store.contract.sources import Source


class SlideVectorSource(Source):
    """A table with one feature vector per slide: becomes a bag of one patch."""

    layout: Literal["vector_table"]
    slide_id: str | None = None
    features: ColumnPattern
    transform: Literal["none", "signed_log1p"] = "none"
    encoder: Encoder


class PatchFolderSource(Source):
    """A table of slides, and beside it one h5 file per slide as TRIDENT writes it (`features`, `coords`)."""

    layout: Literal["trident_h5"]
    slide_id: str
    files: SlideFiles
    mpp: str | None = None
    magnification: str | None = None
    stain: str | None = None
    encoder: Encoder


SlideSource = Annotated[SlideVectorSource | PatchFolderSource, Field(discriminator="layout")]
