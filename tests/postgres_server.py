"""A PostgreSQL server for tests: the machine's own binaries, on loopback, as a user that is not root, gone at the end.

Where there are none, and this is root on a machine with apt, they are installed.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

USER = "postgres"


class PostgresMissingError(Exception):
    """There is no PostgreSQL here and it cannot be installed."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server and yield its URL without a database, as `postgresql://mice@127.0.0.1:port`."""
    binaries = _binaries()
    # not among pytest's temporary folders: every other run of pytest closes those to other users
    folder = Path(tempfile.mkdtemp(prefix="mice-postgres-"))
    data = folder / "data"
    data.mkdir()
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        account = pwd.getpwnam(USER)
        folder.chmod(0o755)
        os.chown(data, account.pw_uid, account.pw_gid)
        as_user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: object) -> None:
        # the server would inherit a pipe of ours, and reading it would last as long as the server
        command = [binaries / program, "-D", data, *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, **as_user)

    run("initdb", "-A", "trust", "-U", "mice", "--no-sync")
    run("pg_ctl", "-w", "-l", data / "log", "-o", f"-p {port} -h 127.0.0.1 -k '' -c fsync=off", "start")
    try:
        yield f"postgresql://mice@127.0.0.1:{port}"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@contextmanager
def database(server: str, name: str) -> Iterator[str]:
    """Make a database of that name and yield its URL."""
    _execute(server, f'CREATE DATABASE "{name}"')
    yield f"{server}/{name}"
    _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _execute(server: str, statement: str) -> None:
    with closing(psycopg2.connect(f"{server}/postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


def _binaries() -> Path:
    """Return the folder with initdb and pg_ctl."""
    for _ in range(2):
        found = shutil.which("initdb")
        folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if folders:
            return folders[-1]
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            break
        install = "apt-get update -q && apt-get install -q -y --no-install-recommends postgresql"
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(["sh", "-c", install], env=quiet, capture_output=True, check=False, timeout=300).returncode:
            break
    raise PostgresMissingError("no initdb on PATH or below /usr/lib/postgresql, and none could be installed with apt-get")
