"""Where the metadata database is for the scheduler's coroutines, in the words of their driver.

Airflow derives the async URL from the sync one by a change of the driver's name; what the sync driver was
told beside it – TLS, time-outs, several hosts – means nothing to a driver that calls it otherwise. Here it is
translated or refused, never dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from async_scheduler.database.libpq import for_asyncpg
from async_scheduler.errors import UnsupportedConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

POSTGRES_PORT = "5432"
_NOT_LIBPQ = frozenset({"user", "password", "dbname", "host", "port"})
_HOST_AND_PORT = re.compile(r"(?P<host>[^:]+):(?P<port>\d+)")
_PYTHON_ONLY = frozenset({"connection_factory", "cursor_factory", "async", "async_"})
_MYSQL_TLS = ("ssl", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher", "ssl_check_hostname")


@dataclass(frozen=True, slots=True)
class AsyncAddress:
    """How to connect: the engine's URL, what is passed to the driver beside it, options of TCP sockets."""

    url: URL
    connect_args: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold a key's password
    socket_options: tuple[tuple[int, int, int], ...] = ()

    def monitor_url(self, *, pgbouncer: bool = False) -> URL:
        """Return a URL for those who watch the database by asyncpg and have nothing but a URL; not for logs.

        What only the scheduler's own driver can do is missing from it.
        """
        if self.url.get_backend_name() != "postgresql":
            return self.url
        address = self
        if self.url.get_driver_name() != "asyncpg":
            url = self.url.set(drivername="postgresql+asyncpg")
            try:
                address = _for_asyncpg(url, {})
            except UnsupportedConnection:
                address = AsyncAddress(url.set(query=_hosts_of(url)))
        query = {"dsn": address.connect_args["dsn"]} if "dsn" in address.connect_args else {}
        if pgbouncer:
            query["statement_cache_size"] = "0"
        return address.url.update_query_dict(query)

    @property
    def names_application(self) -> bool:
        """Whether the operator has given the connections a name."""
        return "application_name" in f"{dict(self.url.query)}{self.connect_args}"


def async_address() -> AsyncAddress:
    """Return where Airflow's configuration says that the metadata database is, for the async driver.

    :raises UnsupportedConnection: when the driver cannot honour what is asked for, or is not installed.
    """
    from airflow import settings
    from airflow.configuration import conf

    given: dict[str, Any] = {}
    if conf.has_option("database", "sql_alchemy_connect_args_async"):
        given = dict(conf.getimport("database", "sql_alchemy_connect_args_async") or {})
    elif not conf.has_option("database", "sql_alchemy_conn_async"):
        given = _sync_arguments()
    address = translated(settings.SQL_ALCHEMY_CONN_ASYNC, given)
    try:
        address.url.get_dialect().import_dbapi()
    except (ImportError, NoSuchModuleError) as error:
        what = f"The driver {address.url.drivername} ({error})"
        raise UnsupportedConnection(what, "install it, or name another in sql_alchemy_conn_async") from None
    return address


def _sync_arguments() -> dict[str, Any]:
    """Return the connect arguments of Airflow's sync engine, as they count where its URL does.

    :raises UnsupportedConnection: when one is no connection parameter but a matter of the sync driver.
    """
    from airflow import settings
    from airflow.configuration import conf

    if not conf.has_option("database", "sql_alchemy_connect_args"):
        return {}
    given = dict(conf.getimport("database", "sql_alchemy_connect_args") or {})
    if settings.SQL_ALCHEMY_CONN.startswith("sqlite"):
        return given  # one library under both drivers
    given = {name: value for name, value in given.items() if name not in _PYTHON_ONLY}
    strange = [name for name, value in given.items() if not _is_plain(value)]
    if strange:
        instead = "set [database] sql_alchemy_connect_args_async to what the async driver is to get"
        raise UnsupportedConnection(f"{strange[0]} in [database] sql_alchemy_connect_args", instead)
    return given


def translated(text: str, connect_args: Mapping[str, Any] | None = None) -> AsyncAddress:
    """Return the address that the async URL *text* and *connect_args* mean.

    :raises UnsupportedConnection: when the driver cannot honour them.
    """
    try:
        url = make_url(text)
        driver = f"{url.get_backend_name()}+{url.get_driver_name()}"
    except (ArgumentError, NoSuchModuleError, ValueError):
        instead = "write it as dialect+driver://user:password@host:port/database?host=other:port"
        raise UnsupportedConnection("The URL in [database]", instead) from None
    given = dict(connect_args or {})
    if driver == "postgresql+asyncpg":
        return _for_asyncpg(url, given)
    if driver == "postgresql+psycopg":
        return _for_psycopg(url, given)
    if driver in ("mysql+aiomysql", "mariadb+aiomysql"):
        return _for_aiomysql(url, given)
    return AsyncAddress(url, given)


def _for_asyncpg(url: URL, given: dict[str, Any]) -> AsyncAddress:
    named = {name: str(value) for name, value in given.items() if _is_plain(value)}
    native = {name: value for name, value in given.items() if name not in named}
    parameters = {**_single(url), **named}
    url, hosts = _with_hosts(url, parameters)
    arguments = for_asyncpg({k: v for k, v in parameters.items() if k not in _NOT_LIBPQ}, hosts)
    url = url.set(
        username=parameters.get("user", url.username),
        password=parameters.get("password", url.password),
        database=parameters.get("dbname", url.database),
    )
    dsn = {"dsn": arguments.dsn} if arguments.dsn else {}
    return AsyncAddress(url, {**dsn, **arguments.connect, **native}, tuple(arguments.socket_options))


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _for_psycopg(url: URL, given: dict[str, Any]) -> AsyncAddress:
    """psycopg is built on libpq: all goes through as it is, but for psycopg's own number."""
    parameters = _single(url)
    url, _ = _with_hosts(url, parameters)
    threshold = parameters.pop("prepare_threshold", None)
    if threshold is not None:
        if threshold.lower() != "none" and not threshold.isdecimal():
            raise UnsupportedConnection(
                f"prepare_threshold={threshold}", "give it a number or none", "psycopg"
            )
        given = {"prepare_threshold": int(threshold) if threshold.isdecimal() else None, **given}
    return AsyncAddress(url.set(query={**parameters, **_hosts_of(url)}), given)


def _for_aiomysql(url: URL, given: dict[str, Any]) -> AsyncAddress:
    for name in _MYSQL_TLS:
        if name in url.query or isinstance(given.get(name), str | dict):
            instead = (
                'set [database] sql_alchemy_connect_args_async to a dictionary {"ssl": ssl_context} '
                "and leave it out of sql_alchemy_conn_async"
            )
            raise UnsupportedConnection(f"{name} in the URL", instead, "aiomysql")
    _require_bytes()
    return AsyncAddress(url, given)


def _require_bytes() -> None:
    """aiomysql 0.3 calls a function that PyMySQL 1.2 has no more, at the first binary parameter."""
    try:
        from aiomysql import connection
    except ImportError:
        return  # said by async_address
    if not callable(getattr(connection, "escape_bytes_prefixed", len)):
        raise UnsupportedConnection("PyMySQL 1.2", "install 'pymysql<1.2'", "aiomysql")


def _single(url: URL) -> dict[str, str]:
    """Return the URL's parameters; of one given several times the last counts, as for libpq; hosts apart."""
    return {
        name: value if isinstance(value, str) else value[-1]
        for name, value in url.query.items()
        if name not in ("host", "port")
    }


def _hosts_of(url: URL) -> dict[str, str]:
    return {name: str(url.query[name]) for name in ("host", "port") if name in url.query}


def _with_hosts(url: URL, parameters: dict[str, str]) -> tuple[URL, int]:
    """Return *url* with nothing in its query but its hosts, in the one form all drivers take; how many."""
    hosts = _values(url, "host") or ([parameters["host"]] if "host" in parameters else [])
    ports = _values(url, "port") or ([parameters["port"]] if "port" in parameters else [])
    if any(not port.isdecimal() for port in ports):
        raise UnsupportedConnection("A port that is no number", "give each host a number")
    if not hosts:
        port = int(ports[0]) if ports else url.port
        return url.set(query={}, port=port), 1
    pairs = [_host_and_port(host) for host in hosts]
    if ports:
        each = ports * len(pairs) if len(ports) == 1 else ports
        if len(each) != len(pairs):
            raise UnsupportedConnection(
                f"A list of {len(pairs)} hosts with {len(ports)} ports", "give each host a port"
            )
        pairs = [(host, port or POSTGRES_PORT) for (host, _), port in zip(pairs, each, strict=True)]
    query = {"host": ",".join(host for host, _ in pairs)}
    fallback = str(url.port or POSTGRES_PORT)
    if len(pairs) > 1 or pairs[0][1] or url.port:  # left out, one host's port is what PGPORT says
        query["port"] = ",".join(port or fallback for _, port in pairs)
    return URL.create(url.drivername, url.username, url.password, None, None, url.database, query), len(pairs)


def _values(url: URL, name: str) -> list[str]:
    value = url.query.get(name, ())
    return [part for text in ([value] if isinstance(value, str) else value) for part in text.split(",")]


def _host_and_port(text: str) -> tuple[str, str | None]:
    if not text:
        raise UnsupportedConnection("A host without a name among several", "name every host")
    if found := _HOST_AND_PORT.fullmatch(text):
        return found["host"], found["port"]
    return text, None
