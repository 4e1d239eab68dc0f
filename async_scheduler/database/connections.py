"""What each new connection of the async engine is told, and how its transactions begin.

Airflow does the like for its sync engine (``utils/orm_event_handlers.py``), not for its async one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import event

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.database.address import AsyncAddress

SQLITE_PATIENCE = 30_000
"""Milliseconds for which a statement waits for SQLite's one writer."""


def prepare_connections(engine: AsyncEngine, address: AsyncAddress, *, reads_only: bool = False) -> None:
    """Make the connections that *engine* will open what Airflow's statements expect.

    :param reads_only: its transactions do not lock SQLite's database file.
    """
    sync, backend = engine.sync_engine, address.url.get_backend_name()
    if backend == "sqlite":
        event.listen(sync, "connect", _configure_sqlite)
        event.listen(sync, "begin", _begin_reading if reads_only else _begin_writing)
    elif backend in ("mysql", "mariadb"):
        event.listen(sync, "connect", _set_time_zone)
    elif address.socket_options:
        event.listen(sync, "connect", lambda connection, _: _set_socket_options(connection, address))


def wait_for_sqlites_writer(engine: Engine) -> None:
    """Let the connections of Airflow's blocking engine, opened from now on, wait as long as ours.

    Its own patience of five seconds can run out behind a long transaction of a routine.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_patience)


def _configure_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
    _set_patience(connection, None)
    connection.create_function("uuid4", 0, lambda: str(uuid4()))
    # The driver would begin by itself, at the first statement that writes: see _begin_writing.
    connection.isolation_level = None


def _set_patience(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={SQLITE_PATIENCE}")
    cursor.close()


def _begin_writing(connection: Connection) -> None:
    """Become the one writer before the first look.

    SQLite has no row locks. What a routine has read and decided on must not change before it writes; a
    transaction that has read and only then wants to write fails at once, without waiting, when somebody else
    has written meanwhile (SQLITE_BUSY_SNAPSHOT).
    """
    _begin(connection, "BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    """Lock nothing: a look-up in the midst of a routine's transaction must not wait for that transaction."""
    _begin(connection, "BEGIN")


def _begin(connection: Connection, statement: str) -> None:
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql(statement)


def _set_time_zone(connection: Any, _: Any) -> None:
    """MySQL's ``now()`` is in the session's time zone; the columns hold UTC."""
    cursor = connection.cursor()
    cursor.execute("SET time_zone = '+00:00'")
    cursor.close()


def _set_socket_options(connection: Any, address: AsyncAddress) -> None:
    """Set on asyncpg's TCP socket what libpq sets on its own."""
    import socket

    found = connection.driver_connection._transport.get_extra_info("socket")
    if found is not None and found.family != socket.AF_UNIX:
        for option in address.socket_options:
            found.setsockopt(*option)
