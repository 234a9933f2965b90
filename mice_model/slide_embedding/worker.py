"""What a process that embeds slides does: open the encoder once, then take a slide at a time. run.py and on_ray.py start it."""

from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from filelock import FileLock

from feature_store.child_processes import end_with_parent
from feature_store.contract.rules import Encoder
from feature_store.errors import SlideError
from feature_store.ingest.whole_slides import WholeSlide
from feature_store.progress import log_to_stderr
from feature_store.slides.decoding import Decoders
from feature_store.slides.embeddings import EncoderMade, RecipeFolder
from mice_model.slide_embedding.encoder import PatchEncoder, open_encoder
from mice_model.slide_embedding.slide import embed_slide


@dataclass(frozen=True)
class Place:
    """What a worker is told once. `shows`: progress within a slide."""

    embeddings: Path
    encoders: Path
    num_decoders: int
    num_gpus: int
    uses_hub: bool
    shows: bool


@dataclass
class _Worker:
    """What a worker keeps from slide to slide."""

    place: Place
    device: str
    decoders: Decoders

    def __post_init__(self) -> None:
        self.encoder = lru_cache(maxsize=1)(self._opened)

    def _opened(self, declared: Encoder) -> PatchEncoder:
        return open_encoder(declared, self.place.encoders, self.device, uses_hub=self.place.uses_hub)


_WORKER: list[_Worker] = []


def start(place: Place, number: int = 0) -> None:
    """Make this process a worker; the `number`-th of a machine takes that GPU."""
    device = f"cuda:{number % place.num_gpus}" if place.num_gpus else "cpu"
    _WORKER[:] = [_Worker(place, device, Decoders(place.num_decoders))]


def start_in_pool(counter: "Synchronized[int]", place: Place, level: int) -> None:
    """Make a process of a pool a worker that ends with the process that started it."""
    end_with_parent()
    log_to_stderr(level)
    torch.set_num_threads(1)
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    start(place, number)


def start_on_ray(place: Place, level: int) -> None:
    """Make a process that Ray lent for a task a worker, where no task before it did. Ray shows it the GPU that it may use."""
    if [worker.place for worker in _WORKER] != [place]:
        stop()
        log_to_stderr(level)
        torch.set_num_threads(1)
        start(place)


def stop() -> None:
    """End what `start` began."""
    for worker in _WORKER:
        worker.decoders.close()
    _WORKER.clear()


def embed(slide: WholeSlide) -> WholeSlide:
    """Embed one slide, or keep why it cannot be; nothing where another run has done it meanwhile."""
    (worker,) = _WORKER
    folder = RecipeFolder(worker.place.embeddings, slide.recipe)
    encoder = worker.encoder(slide.recipe.encoder)
    folder.open_for(EncoderMade(encoder.name, encoder.weight_sha256, encoder.width, encoder.normalisation))
    with FileLock(folder.lock_file(slide.sha256)):
        found = folder.manifest(slide.sha256, slide.declared_mpp)
        if found is None or found.refused is not None:
            try:
                embed_slide(slide, encoder, worker.decoders, folder, shows=worker.place.shows)
            except SlideError as error:
                folder.refuse(slide.sha256, slide.declared_mpp, str(error))
    return slide
