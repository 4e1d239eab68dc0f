"""Database servers: where a cell's database comes from and what the server can tell about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from poc_bench.database.address import Address
from poc_bench.errors import UsageError

if TYPE_CHECKING:
    from poc_bench.database.server import Server


def open_server(text: str) -> Server:
    """Return the server that ``--db`` names: ``postgres``, ``sqlite``, ``mysql`` or a URL.

    :raises UsageError: for anything else.
    :raises Unreachable: when it cannot be started or reached.
    """
    match text:
        case "postgres":
            from poc_bench.database.postgres import EmbeddedPostgres

            return EmbeddedPostgres()
        case "sqlite":
            from poc_bench.database.sqlite import Sqlite

            return Sqlite()
        case "mysql":
            from poc_bench.database.mysql import EmbeddedMariaDB

            return EmbeddedMariaDB()
        case _:
            return _by_url(text)


def _by_url(text: str) -> Server:
    try:
        url = make_url(text)
    except ArgumentError:
        raise UsageError("--db wants postgres, mysql, sqlite or the URL of a server") from None
    dialect = url.get_backend_name()
    socket = url.query.get("host") or url.query.get("unix_socket")
    host = socket if isinstance(socket, str) else url.host
    address = Address(dialect, url.database or "", url.username, url.password, host, url.port)
    if dialect == "postgresql":
        from poc_bench.database.postgres import Postgres

        server: Server = Postgres(address.named_database(url.database or "postgres"))
    elif dialect == "mysql":
        from poc_bench.database.mysql import MySQL

        server = MySQL(address)
    else:
        raise UsageError(f"--db wants a URL of PostgreSQL or MySQL, not of {dialect}")
    server.version()  # says at once when nobody is there
    return server
