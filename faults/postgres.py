"""A home whose catalog is in PostgreSQL, where there is a server to run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faults.report import say
from feature_store.home import Home
from tests.postgres_server import PostgresMissingError, database, postgres_server


@contextmanager
def postgres_homes(folder: Path) -> Iterator[dict[str, Home]]:
    """Yield {"postgresql": home} with a server of its own that runs meanwhile, or nothing where there can be none."""
    try:
        with postgres_server() as server, database(server, "lake") as url:
            yield {"postgresql": Home(folder / "home", url)}
    except PostgresMissingError as error:
        say(f"no PostgreSQL: {error}")
        yield {}
