"""The embedding run: every slide of a contract that has no embedding yet, shared out to workers. No pixel is touched here.

A worker (worker.py: a process of this machine, or of a Ray cluster) takes a slide at a time and keeps its embedding whole or not
at all (feature_store/slides/embeddings.py), so a run that is killed goes on at the first slide that is not done. Several machines
share a run by `shard`; two that meet at a slide wait.
"""

import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from feature_store.contract import Contract
from feature_store.errors import RunnerError, SlideReadError
from feature_store.home import Home
from feature_store.ingest.whole_slides import WholeSlide, mark_slides, whole_slides
from feature_store.progress import tracked
from feature_store.slides.embeddings import EncoderMade, Manifest, RecipeFolder
from mice_model.slide_embedding import worker
from mice_model.slide_embedding.on_ray import embedded_on_ray

logger = logging.getLogger(__name__)

Runner = Literal["processes", "ray"]


def runner_named(name: str) -> Runner:
    """Return the runner of a name. Raises RunnerError."""
    for runner in get_args(Runner):
        if runner == name:
            return runner
    raise RunnerError(f"runner {name!r}: not known, expected one of {get_args(Runner)}. Correct the name.")


@dataclass(frozen=True)
class RunConfig:
    """How a run is shared out; no result depends on it but through the device's precision.

    `num_workers` slides are embedded at the same time, each by `num_decoders` decoding processes; 0 and -1: as many as the
    machine (with the runner `ray`: the cluster) has GPUs, and cores for each; without a GPU, a worker on each core, which decodes
    for itself. `shard` (i, n) takes every n-th slide.
    """

    num_workers: int = 0
    num_decoders: int = -1
    shard: tuple[int, int] = (0, 1)
    uses_hub: bool = False
    runner: Runner = "processes"


@dataclass(frozen=True)
class Outcome:
    """What became of a slide: `num_patches`, or why it was refused. `is_new`: in this run."""

    name: str
    manifest: Manifest
    picture: Path
    is_new: bool


@dataclass(frozen=True)
class EmbeddingReport:
    """What a contract's slides came to, refused ones included, in order of their names."""

    outcomes: tuple[Outcome, ...] = ()
    encoders: tuple[EncoderMade, ...] = field(default=())

    @property
    def refused(self) -> list[Outcome]:
        """The slides without an embedding."""
        return [outcome for outcome in self.outcomes if outcome.manifest.refused is not None]

    @property
    def embedded(self) -> list[Outcome]:
        """The slides with one."""
        return [outcome for outcome in self.outcomes if outcome.manifest.refused is None]

    @property
    def num_patches(self) -> int:
        """Patches of all embedded slides."""
        return sum(outcome.manifest.num_patches for outcome in self.embedded)

    @property
    def mpp_origins(self) -> dict[str, int]:
        """Slides by what said their resolution."""
        return dict(Counter(outcome.manifest.mpp_origin for outcome in self.embedded))


def embed_contract(contract: Contract, landing: Path, home: Home, config: RunConfig | None = None) -> EmbeddingReport:
    """Embed the contract's whole slides that are not embedded yet, and report on all of them.

    A slide that cannot be embedded is refused with the reason, and the others go on. Raises EncoderError where an encoder cannot
    be had or is another than before, StoreWriteError for a full disk, SlideReadError where a slide kills its worker, RunnerError
    where there is no Ray to run on.
    """
    config = config or RunConfig()
    number, of = config.shard
    slides = whole_slides(contract, landing, home)[number::of]
    mark_slides(slides, home)
    missing = [slide for slide in slides if _kept(slide, home) is None]
    if missing:
        logger.info("%s: %d of %d slides to embed", contract.name, len(missing), len(slides))
    new = {slide.sha256 for slide in missing}
    for slide in _embedded(missing, home, config):
        manifest = _kept(slide, home, is_refusal=True)
        if manifest is not None and manifest.refused is not None:
            logger.warning("slide %s: %s", slide.name, manifest.refused)
    folders = {RecipeFolder(home.embeddings, slide.recipe).path: RecipeFolder(home.embeddings, slide.recipe) for slide in slides}
    outcomes = []
    for slide in sorted(slides, key=lambda each: each.name):
        manifest = _kept(slide, home, is_refusal=True)
        if manifest is not None:
            picture = RecipeFolder(home.embeddings, slide.recipe).picture(slide.sha256)
            outcomes.append(Outcome(slide.name, manifest, picture, slide.sha256 in new))
    made = [encoder for folder in folders.values() if (encoder := folder.encoder()) is not None]
    return EmbeddingReport(tuple(outcomes), tuple(made))


def _kept(slide: WholeSlide, home: Home, *, is_refusal: bool = False) -> Manifest | None:
    """Return what there is of a slide; a refusal only if asked for, since it is worth another try."""
    found = RecipeFolder(home.embeddings, slide.recipe).manifest(slide.sha256, slide.declared_mpp)
    return found if found is None or is_refusal or found.refused is None else None


def _embedded(slides: Sequence[WholeSlide], home: Home, config: RunConfig) -> Iterator[WholeSlide]:
    """Embed slides and yield each when it is done, with progress."""
    if config.runner == "ray":
        done = embedded_on_ray(slides, home, config.num_workers, config.num_decoders, uses_hub=config.uses_hub) if slides else ()
        yield from tracked(done, "slides", len(slides))
        return
    num_gpus = torch.cuda.device_count()
    cores = os.cpu_count() or 1
    workers = min(config.num_workers or num_gpus or cores, len(slides))
    decoders = config.num_decoders if config.num_decoders >= 0 else (cores // max(workers, 1) if num_gpus else 0)
    place = worker.Place(home.embeddings, home.encoders, decoders, num_gpus, uses_hub=config.uses_hub, shows=workers <= 1)
    if workers <= 1:
        worker.start(place)
        try:
            for slide in slides:
                yield worker.embed(slide)
        finally:
            worker.stop()
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    level = logging.getLogger("mice_model").getEffectiveLevel()
    with ProcessPoolExecutor(workers, context, worker.start_in_pool, (context.Value("i", 0), place, level)) as pool:
        futures = [pool.submit(worker.embed, slide) for slide in slides]
        try:
            for future in tracked(as_completed(futures), "slides", len(slides)):
                yield future.result()
        except BrokenProcessPool as error:
            raise SlideReadError(
                "a worker died over a slide, expected its embedding. Run again: slides that are done stay done. If it dies "
                "again, memory is short (fewer workers), or a file is damaged."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
