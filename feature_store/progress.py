"""Progress of long work: a bar on a terminal, log lines otherwise."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the platform's own log lines to standard error; libraries say only what is wrong."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for name in ("feature_store", "mice_model", "dagster_project"):
        logging.getLogger(name).setLevel(level)


def tracked(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield `items`, showing how many of `total` are done and how long the rest may take."""
    if sys.stderr.isatty():
        yield from tqdm(items, desc=description, total=total, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last > _SECONDS_BETWEEN_LINES or done == total:
            left = (now - start) / done * (total - done)
            logger.info("%s: %d of %d, %.0f s left", description, done, total, left)
            last = now
