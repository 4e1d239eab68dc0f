"""SQLite: a file per database."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from poc_bench.database.address import Address
from poc_bench.errors import UsageError


class Sqlite:
    """SQLite files in a folder of our own, removed on close."""

    kind = "sqlite"
    pid: int | None = None

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="poc-bench-sqlite-")

    def version(self) -> str:
        """Return the version of the library."""
        return sqlite3.sqlite_version

    def _file(self, database: str) -> Path:
        return Path(self._folder.name, f"{database}.db")

    def address(self, database: str) -> Address:
        """Return the file of *database*."""
        return Address("sqlite", str(self._file(database)))

    def create(self, database: str, template: str | None = None) -> None:
        """Create *database*, as a copy of *template* when one is named."""
        if template is None:
            self._file(database).touch()
        else:
            shutil.copy(self._file(template), self._file(database))

    def drop(self, database: str) -> None:
        """Remove the files of *database*."""
        for file in Path(self._folder.name).glob(f"{database}.db*"):
            file.unlink()

    def settle(self, database: str) -> None:
        """Write the log back into the file, so that a copy of the file is complete."""
        with sqlite3.connect(self._file(database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def load_past(self, database: str, task_instances: int) -> None:
        """Not possible here.

        :raises UsageError: always.
        """
        raise UsageError("history=N needs PostgreSQL: the past is loaded by COPY")

    def close(self) -> None:
        """Remove all files."""
        self._folder.cleanup()
