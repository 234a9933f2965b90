"""Typed errors of the libraries become Dagster failures: their message, no retry, since trying again cannot mend an input."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from feature_store.errors import MiceError, StoreBusyError


@contextmanager
def typed_failures() -> Iterator[None]:
    """Turn a MiceError into a dg.Failure with its class and message; only a busy store may be tried again."""
    try:
        yield
    except MiceError as error:
        raise dg.Failure(
            description=f"{type(error).__name__}: {error}", allow_retries=isinstance(error, StoreBusyError)
        ) from error
