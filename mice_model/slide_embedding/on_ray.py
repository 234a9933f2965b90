"""Slides as tasks of a Ray cluster: `RAY_ADDRESS` names it, else one is started on this machine and ended with the run.

A task embeds whole slides just as a worker process of a pool does (worker.py). All machines must see the landing folder and the
home under the same paths, and have the platform installed. Ray is an extra: it is imported when a run asks for it.
"""

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

from feature_store.errors import RunnerError, SlideReadError
from feature_store.home import Home
from feature_store.ingest.whole_slides import WholeSlide
from mice_model.slide_embedding import worker
from mice_model.slide_embedding.worker import Place

logger = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
# Tasks pass on names and numbers, embeddings go to the disk: near the least that Ray takes, instead of 30% of the memory.
_STORE_BYTES = 128 << 20
_ANSWER_S = 10.0


def embedded_on_ray(
    slides: Sequence[WholeSlide], home: Home, num_tasks: int, num_decoders: int, *, uses_hub: bool
) -> Iterator[WholeSlide]:
    """Embed slides and yield each when it is done, at most `num_tasks` at a time (0: as many as the cluster has room for).

    With GPUs a task has one, and -1 `num_decoders` are the cores for each; without, a task has a core and decodes for itself.
    Raises RunnerError without Ray or where no cluster answers, SlideReadError where a slide kills its worker.
    """
    ray = _imported()
    with _cluster(ray):
        there = ray.cluster_resources()
        num_gpus, num_cores = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        decoders = num_decoders if num_decoders >= 0 else (num_cores // num_gpus if num_gpus else 0)
        place = Place(home.embeddings, home.encoders, decoders, min(num_gpus, 1), uses_hub=uses_hub, shows=False)
        level = logging.getLogger("mice_model").getEffectiveLevel()
        task = ray.remote(_embed).options(num_cpus=max(min(decoders, num_cores), 1), num_gpus=min(num_gpus, 1))
        logger.info("Ray: %d cores, %d GPUs on %d machines", num_cores, num_gpus, len(ray.nodes()))
        waiting = deque(slides)
        running: list[object] = []
        while waiting or running:
            while waiting and len(running) < (num_tasks or len(slides)):
                running.append(task.remote(waiting.popleft(), place, level))
            (done,), running = ray.wait(running, num_returns=1)
            yield _result(ray, done)


def _embed(slide: WholeSlide, place: Place, level: int) -> WholeSlide:
    """Embed one slide, in a task."""
    worker.start_on_ray(place, level)
    return worker.embed(slide)


def _result(ray: ModuleType, done: object) -> WholeSlide:
    try:
        slide: WholeSlide = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if error.cause is None:
            raise
        raise error.cause from None  # as a process of our own would have it
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise SlideReadError(
            "a worker died over a slide, expected its embedding. Run again: slides that are done stay done. If it dies again, "
            "memory is short (fewer workers), or a file is damaged."
        ) from error
    return slide


def _imported() -> ModuleType:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise RunnerError(
            "runner ray: Ray is not installed, expected it. pip install -c constraints.txt -e '.[ray]', or take the runner "
            "processes."
        ) from error
    module: ModuleType = ray
    return module


@contextmanager
def _cluster(ray: ModuleType) -> Iterator[None]:
    """Join the cluster of `RAY_ADDRESS`, or start one here; one that this process has joined already is left as it is."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    address = os.environ.get(ADDRESS) or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    own = {"include_dashboard": False, "object_store_memory": _STORE_BYTES} if address == "local" else {}
    try:
        if port.isdecimal():  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), _ANSWER_S).close()
        ray.init(address=address, logging_level=logging.WARNING, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RunnerError(
            f"runner ray: no cluster at {address} ({' '.join(str(error).split())[:200]}), expected one. Start it, or correct "
            f"{ADDRESS}."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
