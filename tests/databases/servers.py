"""Debian's own servers, each started by a test on a unix socket or the loopback and gone with it."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psycopg2
import pytest

from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import wait_until


def program(name: str, package: str, *folders: Path) -> str:
    """Return the path of a server's program; skip the test where *package* is not installed."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/bin", *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


@dataclass(slots=True)
class Account:
    """Who runs a server: its own account when the tests are root's, as servers refuse to run as root."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, name: str) -> Account:
        """Return the account *name* for root, else the caller's."""
        entry = pwd.getpwnam(name if os.getuid() == 0 else getpass.getuser())
        return cls(entry.pw_name, entry.pw_uid, entry.pw_gid)

    @property
    def switch(self) -> dict[str, object]:
        """What ``subprocess`` needs to run a program by this account."""
        if os.getuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path, mode: int | None = None) -> None:
        """Give *path* to the account."""
        os.chown(path, self.uid, self.gid)
        if mode is not None:
            path.chmod(mode)


@contextmanager
def folder(account: Account) -> Iterator[Path]:
    """Yield a directory of the account's own."""
    path = Path(tempfile.mkdtemp(prefix="async-scheduler-server-"))
    account.own(path, 0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(command: list[str], account: Account, log: Path, ready: str | Path) -> Iterator[int]:
    """Run a server until the block ends, from when the file *ready* exists; yield its process id."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=log.parent,
            **account.switch,  # type: ignore[call-overload]
        )
    try:
        wait_until(lambda: Path(ready).exists() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass(frozen=True, slots=True)
class Named:
    """The two URLs of a database."""

    sync: str
    asynchronous: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point an Airflow process at it."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.sync,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": self.asynchronous,
        }


@dataclass(frozen=True, slots=True)
class Postgres:
    """A PostgreSQL of Debian's that listens on the loopback, with TLS, and on a unix socket."""

    directory: Path
    port: int
    log: Path

    def url(self, driver: str, database: str = "postgres", query: str = "", host: str = "") -> str:
        """Return the URL of a database by TCP, or by the unix socket without a *host*."""
        if not host:
            where = f"host={self.directory}&port={self.port}"
            return f"postgresql+{driver}://postgres@/{database}?{where}{'&' if query else ''}{query}"
        more = f"?{query}" if query else ""
        return f"postgresql+{driver}://postgres:secret@{host}:{self.port}/{database}{more}"

    def named(self, database: str) -> Named:
        """Return one of its databases, by the unix socket."""
        return Named(self.url("psycopg2", database), self.url("asyncpg", database))

    def answers(self) -> bool:
        """Whether it lets somebody in yet."""
        try:
            self.run("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def run(self, statement: str) -> None:
        """Run *statement* as the superuser."""
        with closing(psycopg2.connect(host=self.directory, port=self.port, user="postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute(statement)


POSTGRES_PROGRAMS = "TEST_POSTGRES_PROGRAMS"
"""The variable that names the folder with the programs of another PostgreSQL than the installed one."""


def postgres_program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, of the newest release installed."""
    if chosen := os.environ.get(POSTGRES_PROGRAMS):
        return str(Path(chosen) / name)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    return program(name, "postgresql", *reversed(installed))


@contextmanager
def postgres_server(settings: dict[str, str], hba: str, files: dict[str, Path]) -> Iterator[Postgres]:
    """Start a PostgreSQL with *settings* and pg_hba lines; *files* are copied into its data directory."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    account = Account.of("postgres")
    with folder(account) as root:
        data, port, log = root / "data", free_port(), root / "log"
        (root / "password").write_text("secret")
        subprocess.run(
            [
                initdb,
                "-D",
                data,
                "-U",
                "postgres",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "-N",
                "--pwfile",
                root / "password",
            ],
            check=True,
            capture_output=True,
            cwd=root,
            **account.switch,  # type: ignore[call-overload]
        )
        for name, source in files.items():
            shutil.copy(source, data / name)
            account.own(data / name, 0o600)
        (data / "pg_hba.conf").write_text(f"local all all trust\n{hba}")
        lines = {
            "listen_addresses": f"'{LOOPBACK}'",
            "port": str(port),
            "unix_socket_directories": f"'{root}'",
            "fsync": "off",
            **settings,
        }
        with (data / "postgresql.conf").open("a") as config:
            config.writelines(f"{name} = {value}\n" for name, value in lines.items())
        started = Postgres(root, port, log)
        with running([server, "-D", str(data)], account, log, root / f".s.PGSQL.{port}"):
            wait_until(started.answers)
            yield started


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A PgBouncer on a unix socket, in transaction mode."""

    directory: Path
    port: int
    database: str
    log: Path

    def url(self, driver: str) -> str:
        """Return the URL of its database."""
        return f"postgresql+{driver}://postgres@/{self.database}?host={self.directory}&port={self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point an Airflow process at it."""
        return Named(self.url("psycopg2"), self.url("asyncpg")).environment


PGBOUNCER = """
[databases]
{database} = host={host} port=5432 dbname={database} user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 200
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
unix_socket_mode = 0777
auth_type = any
pidfile = {directory}/pid
logfile = {directory}/log
"""


@contextmanager
def pgbouncer(host: str, database: str, servers: int) -> Iterator[PgBouncer]:
    """Start a PgBouncer before *database* with at most *servers* connections to its server."""
    command = program("pgbouncer", "pgbouncer")
    account = Account.of(Path(host).owner())  # who may enter the folder of the server's socket
    with folder(account) as root:
        config, port = root / "pgbouncer.ini", free_port()
        config.write_text(
            PGBOUNCER.format(database=database, host=host, servers=servers, port=port, directory=root)
        )
        with running([command, str(config)], account, root / "output", root / f".s.PGSQL.{port}"):
            yield PgBouncer(root, port, database, root / "log")


@dataclass(slots=True)
class MariaDB:
    """A MariaDB on a unix socket, its data in a directory of its own."""

    socket: Path
    user: str
    template: Path

    def url(self, driver: str, database: str = "airflow") -> str:
        """Return the URL of a database."""
        return f"mysql+{driver}://{self.user}@/{database}?unix_socket={self.socket}&charset=utf8mb4"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point an Airflow process at it."""
        return Named(self.url("mysqldb"), self.url("aiomysql")).environment

    def keep_template(self) -> None:
        """Remember the database as it is now."""
        with self.template.open("wb") as file:
            self._client("mariadb-dump", "airflow", stdout=file)

    def restore(self) -> None:
        """Make the database what it was when it was remembered."""
        self._client("mariadb", "-e", f"DROP DATABASE IF EXISTS airflow; {CREATE}")
        with self.template.open("rb") as file:
            self._client("mariadb", "airflow", stdin=file)

    def _client(self, name: str, *args: str, **streams: IO[bytes]) -> None:
        command = [program(name, "mariadb-client"), "--no-defaults", f"--socket={self.socket}", "-uroot"]
        subprocess.run([*command, *args], check=True, timeout=600, **streams)  # type: ignore[call-overload]


CREATE = "CREATE DATABASE airflow CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci"


@contextmanager
def mariadb_server() -> Iterator[MariaDB]:
    """Start a MariaDB with an empty database ``airflow``."""
    install, daemon = program("mariadb-install-db", "mariadb-server"), program("mariadbd", "mariadb-server")
    account = Account.of("mysql")
    with folder(account) as root:
        data, path = root / "data", root / "socket"
        subprocess.run(
            [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
            cwd=root,
            **account.switch,  # type: ignore[call-overload]
        )
        command = [daemon, "--no-defaults", f"--datadir={data}", "--skip-networking", f"--socket={path}"]
        command += ["--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        with running(command, account, root / "log", path):
            server = MariaDB(path, "root", root / "template.sql")
            server._client("mariadb", "-e", CREATE)
            yield server
