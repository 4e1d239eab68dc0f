"""MySQL and MariaDB: a MariaDB of our own, or a server that the user names."""

from __future__ import annotations

import getpass
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, NoSuchModuleError

from poc_bench.database.address import Address
from poc_bench.errors import Unreachable, UsageError
from poc_bench.processes import Child

NEEDED = ("mariadbd", "mariadb-install-db", "mariadb-dump", "mariadb")
STARTS_WITHIN = 180.0


class MySQL:
    """A MySQL or MariaDB server reached at *address*, where databases may be created.

    There is no template there: a copy is dumped and read in, with the client programs of MariaDB or MySQL.
    """

    def __init__(self, address: Address, kind: str = "mysql", pid: int | None = None) -> None:
        self._base = address
        self.kind = kind
        self.pid = pid

    def address(self, database: str) -> Address:
        """Return where *database* is."""
        return self._base.named_database(database)

    def version(self) -> str:
        """Return the server's version in its own words."""
        return self._run("SELECT version()")

    def create(self, database: str, template: str | None = None) -> None:
        """Create *database*, as a copy of *template* when one is named."""
        self._run(f"CREATE DATABASE `{database}` CHARACTER SET utf8mb4")
        if template is not None:
            self._copy(template, database)

    def _copy(self, source: str, target: str) -> None:
        with tempfile.TemporaryFile() as dump:
            self._client("dump", source, stdout=dump)
            dump.seek(0)
            self._client("client", target, stdin=dump)

    def _client(self, program: str, database: str, **streams: object) -> None:
        address = self.address(database)
        command = [_program(program)]
        if program == "dump":
            command += ["--single-transaction", "--quick"]
        where = (
            {"socket": address.host}
            if address.socket
            else {"protocol": "tcp", "host": address.host, "port": address.port}
        )
        where |= {"user": address.user}
        command[1:1] = [f"--{name}={value}" for name, value in where.items() if value is not None]
        environment = {"MYSQL_PWD": address.password} if address.password else {}
        done = subprocess.run(
            [*command, database],
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **environment},
            stderr=subprocess.PIPE,
            check=False,
            **streams,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise Unreachable(f"{command[0]} failed: {done.stderr.decode().strip()}")

    def drop(self, database: str) -> None:
        """Remove *database* if it exists."""
        self._run(f"DROP DATABASE IF EXISTS `{database}`")

    def settle(self, database: str) -> None:
        """Leave fresh statistics of the tables that are asked most."""
        self._run(f"ANALYZE TABLE `{database}`.dag, `{database}`.dag_run, `{database}`.task_instance")

    def load_past(self, database: str, task_instances: int) -> None:
        """Not possible here.

        :raises UsageError: always.
        """
        raise UsageError("history=N needs PostgreSQL: the past is loaded by COPY")

    def _run(self, statement: str) -> str:
        try:
            engine = create_engine(self.address(self._base.database or "mysql").sync_url)
            with engine.begin() as connection:
                result = connection.execute(text(statement))
                return str(result.scalar()) if result.returns_rows else ""
        except (ImportError, NoSuchModuleError):
            raise UsageError("MySQL needs its drivers: pip install mysqlclient aiomysql") from None
        except DBAPIError as error:
            raise Unreachable(f"No MySQL at {self._base.shown}: {error.orig}") from None

    def close(self) -> None:
        """Nothing to give back: the server is the user's."""


class EmbeddedMariaDB(MySQL):
    """A MariaDB server of our own with its shipped settings, removed with everything in it on close."""

    def __init__(self) -> None:
        missing = [name for name in NEEDED if shutil.which(name) is None]
        if missing:
            raise Unreachable(f"--db mysql needs a MariaDB server here; not found: {', '.join(missing)}")
        self._folder = tempfile.TemporaryDirectory(prefix="poc-bench-mariadb-")
        folder = Path(self._folder.name)
        try:
            self._process = _start(folder)
        except Unreachable:
            self._folder.cleanup()
            raise
        address = Address("mysql", "mysql", getpass.getuser(), host=str(folder / "socket"))
        super().__init__(address, "embedded mariadb", self._process.pid)
        try:
            self._wait()
        except Unreachable:
            self.close()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self.version()
                return
            except Unreachable:
                if self._process.exit_code is not None or time.monotonic() > deadline:
                    raise Unreachable(f"MariaDB does not start: {self._process.last_line()}") from None
                time.sleep(0.1)

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._process.end(politely=signal.SIGTERM)
        self._folder.cleanup()


def _start(folder: Path) -> Child:
    user, data = getpass.getuser(), folder / "data"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}"]
    install += ["--auth-root-authentication-method=socket", "--skip-test-db"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unreachable(f"mariadb-install-db failed: {done.stderr.strip().splitlines()[-1]}")
    command = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-networking"]
    return Child(
        "mariadb", [*command, f"--socket={folder / 'socket'}"], {"PATH": "/usr/bin:/usr/sbin"}, folder
    )


def _program(purpose: str) -> str:
    names = {"dump": ("mariadb-dump", "mysqldump"), "client": ("mariadb", "mysql")}[purpose]
    for name in names:
        if found := shutil.which(name):
            return found
    raise Unreachable(f"Copying a MySQL database needs {' or '.join(names)}")
