"""The slides of the held-out cases, for the report: how many by encoder, and where pictures of a few lie.

Pictures are linked and not put into the page: a page that held one would have it after its case was erased. What erasure removes
from the embeddings' folder no report shows any more (erase/files.py, which takes the link out as well).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from urllib.parse import quote

from feature_store.home import Home
from feature_store.slides.embeddings import picture_of
from mice_model.data import StudyData
from mice_model.evaluation import HeldOut

MOST_PICTURES = 6


@dataclass(frozen=True)
class EncodedSlides:
    """How many slides of how many held-out cases an encoder made patch embeddings of."""

    encoder: str
    num_cases: int
    num_slides: int
    num_patches: int


@dataclass(frozen=True)
class SlidePicture:
    """A slide's thumbnail with tissue and grid: `link` leads there from the reports' folder."""

    link: str
    cancer_type: str
    num_patches: int


@dataclass(frozen=True)
class HeldOutSlides:
    """What the report says of slides; without any it says nothing."""

    by_encoder: tuple[EncodedSlides, ...] = ()
    pictures: tuple[SlidePicture, ...] = ()


def held_out_slides(data: StudyData, held_out: Sequence[HeldOut], home: Home) -> HeldOutSlides:
    """Count the held-out cases' slides, and find a few pictures: of each cancer type in turn, in order of the slides' checksums.

    Nothing for a study that does not look at slides.
    """
    if "slide" not in data.study.features.modalities:
        return HeldOutSlides()
    bags_of = dict(zip(data.training_set.cases["case_id"], data.training_set.bags, strict=True))
    bags = {each.cancer_type: [bag for case_id in each.case_id for bag in bags_of.get(case_id, ())] for each in held_out}
    found = list(chain(*bags.values()))
    by_encoder = []
    for encoder in sorted({bag.encoder for bag in found}):
        ours = [bag for bag in found if bag.encoder == encoder]
        num_cases = len({bag.case_id for bag in ours})
        by_encoder.append(EncodedSlides(encoder, num_cases, len(ours), sum(bag.num_patches for bag in ours)))

    def pictures(cancer_type: str) -> Iterator[SlidePicture]:
        for bag in sorted(bags[cancer_type], key=lambda bag: bag.source_sha256):
            path = picture_of(home.embeddings, bag.source_sha256, bag.num_patches)
            if path is not None:
                yield SlidePicture(_link(path, home), cancer_type, bag.num_patches)

    in_turn = chain.from_iterable(zip_longest(*map(pictures, bags)))
    return HeldOutSlides(tuple(by_encoder), tuple(islice((each for each in in_turn if each is not None), MOST_PICTURES)))


def _link(path: Path, home: Home) -> str:
    return quote(Path(os.path.relpath(path, home.reports)).as_posix())
