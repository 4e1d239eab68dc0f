"""PostgreSQL servers that tell about their locks: one that logs every wait, one that explains every plan."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from async_scheduler.contention import census, postgres_log
from poc_bench.database.address import Address
from poc_bench.database.postgres import EmbeddedPostgres, Postgres
from poc_bench.errors import Unreachable, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOG_DIRECTORY = "lock_log"
SPEED: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class LoggingPostgres(EmbeddedPostgres):
    """The embedded server, writing a JSON record of every lock wait of a millisecond or more."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        wanted = {**postgres_log.SETTINGS, "log_directory": LOG_DIRECTORY, **(settings or {})}
        for name, value in wanted.items():
            self._run(f"ALTER SYSTEM SET {name} = '{value}'")
        self._server.stop()
        self._server.start()
        self.pid = self._server.get_postmaster_info().pid

    @property
    def logs(self) -> list[Path]:
        """The JSON logs so far."""
        return postgres_log.log_files(Path(self._folder.name, "data", LOG_DIRECTORY))


class ExplainingPostgres(Postgres):
    """A PostgreSQL of the system's own packages, logging the plan of every statement (``auto_explain``).

    The embedded server has no such library. As root it runs as the user ``postgres``.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._binaries = find_installation()
        self._folder = tempfile.TemporaryDirectory(prefix="poc-bench-census-")
        folder = Path(self._folder.name)
        self._data, self._user = folder / "data", "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        try:
            self._command("initdb", "-D", str(self._data), "-A", "trust", "-U", "postgres", "--no-sync")
            lines = {**census.SETTINGS, "log_directory": LOG_DIRECTORY, **(settings or {})}
            lines |= {"listen_addresses": "", "unix_socket_directories": str(folder)}
            with (self._data / "postgresql.conf").open("a") as file:
                file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())
            self._command("pg_ctl", "-D", str(self._data), "-l", str(folder / "start.log"), "-w", "start")
        except Unreachable:
            self._folder.cleanup()
            raise
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        address = Address("postgresql", "postgres", "postgres", host=str(folder))
        super().__init__(address, "installed postgres with auto_explain", pid)

    @property
    def logs(self) -> list[Path]:
        """The JSON logs so far."""
        return postgres_log.log_files(self._data / LOG_DIRECTORY)

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._command("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")
        self._folder.cleanup()

    def _command(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._binaries / program), *arguments]
        done = subprocess.run(
            command,
            user=self._user,
            group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
            extra_groups=None if self._user is None else [],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or "no output").splitlines()[-1]
            raise Unreachable(f"`{program}` failed: {last}")


def find_installation() -> Path:
    """Return the programs of the newest installed PostgreSQL that has ``auto_explain``.

    :raises UsageError: when there is none.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/lib/auto_explain.so"), key=_major)
    if not found:
        raise UsageError("A skip census needs an installed PostgreSQL with auto_explain; there is none here")
    return found[-1].parent.parent / "bin"


def _major(library: Path) -> int:
    return int(library.parent.parent.name)
