"""Where a database is, in the forms that its users want."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from sqlalchemy.engine import URL

SYNC_DRIVERS = {"postgresql": "psycopg2", "mysql": "mysqldb", "sqlite": ""}
ASYNC_DRIVERS = {"postgresql": "asyncpg", "mysql": "aiomysql", "sqlite": "aiosqlite"}


@dataclass(frozen=True, slots=True)
class Address:
    """A database: dialect, name and where its server listens.

    ``host`` may be a path: the folder of PostgreSQL's unix socket, or MySQL's socket.
    """

    dialect: str
    database: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None

    def named_database(self, database: str) -> Address:
        """Return another database of the same server."""
        return replace(self, database=database)

    @property
    def shown(self) -> str:
        """Where it is, for messages: without user and password."""
        if self.dialect == "sqlite":
            return self.database
        return f"{self.host or 'localhost'}{f':{self.port}' if self.port else ''}/{self.database}"

    def behind(self, port: int) -> Address:
        """Return the same database as reached through a link that listens on *port* of this machine."""
        return replace(self, host="127.0.0.1", port=port)

    @property
    def socket(self) -> str | None:
        """The server's unix socket, when it is reached by one."""
        if self.host is None or not self.host.startswith("/"):
            return None
        return f"{self.host}/.s.PGSQL.{self.port or 5432}" if self.dialect == "postgresql" else self.host

    def url(self, driver: str) -> str:
        """Return the SQLAlchemy URL for *driver*, password included."""
        by_socket = self.socket is not None
        parameter = "host" if self.dialect == "postgresql" else "unix_socket"
        url = URL.create(
            f"{self.dialect}+{driver}"
            if driver
            else self.dialect,  # Airflow knows SQLite without a driver only
            username=self.user,
            password=self.password,
            host=None if by_socket else self.host,
            port=self.port,
            database=self.database,
            query={parameter: str(self.host)} if by_socket else {},
        )
        return url.render_as_string(hide_password=False)

    @property
    def sync_url(self) -> str:
        """The URL for blocking use."""
        return self.url(SYNC_DRIVERS[self.dialect])

    @property
    def async_url(self) -> str:
        """The URL for use on an event loop."""
        return self.url(ASYNC_DRIVERS[self.dialect])

    def named(self, application: str) -> dict[str, str]:
        """Return the connect arguments of our own connections: who connects; on MySQL, times in UTC."""
        match self.dialect:
            case "postgresql":
                return {"application_name": application}
            case "mysql":
                return {"init_command": "SET time_zone = '+00:00'"}
            case _:
                return {}

    @property
    def default_port(self) -> int:
        """The port that servers of this kind listen on."""
        return 3306 if self.dialect == "mysql" else 5432

    def dsn(self) -> str:
        """Return libpq's connection string (PostgreSQL only)."""
        return self.sync_url.replace("+psycopg2", "")
