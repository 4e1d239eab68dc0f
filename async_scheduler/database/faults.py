"""Sorts database errors into what a routine should do about them, by SQLSTATE or errno, never by text.

Sources: PostgreSQL appendix A (error codes), MySQL server error reference, SQLite result codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import asyncpg
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from async_scheduler.errors import DatabaseUnreachable, ExecutorUnresponsive, LostRace


class Fault(Enum):
    """What kind of database error it is; all but FATAL pass by themselves and are worth a retry."""

    LOCKED = "lock not available"
    DEADLOCK = "deadlock"
    LOST_RACE = "lost race"
    DISCONNECTED = "connection lost"
    POOL_EXHAUSTED = "no free connection"
    TIMED_OUT = "timed out"
    NO_RESOURCES = "server out of resources"
    FATAL = "fatal"

    @property
    def passing(self) -> bool:
        """Whether the same work may succeed when tried again."""
        return self is not Fault.FATAL


_SQLSTATES = {
    "55P03": Fault.LOCKED,  # lock_not_available: NOWAIT, lock_timeout, a held advisory lock
    "40P01": Fault.DEADLOCK,
    "40001": Fault.LOST_RACE,  # serialization_failure
    "23505": Fault.LOST_RACE,  # unique_violation: another scheduler inserted the row first
    "23503": Fault.LOST_RACE,  # foreign_key_violation: the parent row was deleted meanwhile
    "57014": Fault.TIMED_OUT,  # query_canceled: statement_timeout or a cancelled pass
    "57P01": Fault.DISCONNECTED,  # admin_shutdown
    "57P02": Fault.DISCONNECTED,  # crash_shutdown
    "57P03": Fault.DISCONNECTED,  # cannot_connect_now
    "57P05": Fault.DISCONNECTED,  # idle_session_timeout
    "25P03": Fault.DISCONNECTED,  # idle_in_transaction_session_timeout
    "53300": Fault.DISCONNECTED,  # too_many_connections
    "53100": Fault.NO_RESOURCES,  # disk_full: somebody will make room; running tasks need not die of it
    "53200": Fault.NO_RESOURCES,  # out_of_memory
}
_MYSQL_ERRNOS = {
    1205: Fault.LOCKED,  # lock wait timeout; MariaDB gives it for NOWAIT too
    3572: Fault.LOCKED,  # NOWAIT
    1213: Fault.DEADLOCK,
    1020: Fault.LOST_RACE,  # record has changed since last read
    1062: Fault.LOST_RACE,  # duplicate key
    1451: Fault.LOST_RACE,  # foreign key, parent side
    1452: Fault.LOST_RACE,  # foreign key, child side
    1021: Fault.NO_RESOURCES,  # disk full
    1114: Fault.NO_RESOURCES,  # the table is full
    1040: Fault.DISCONNECTED,  # too many connections
    1053: Fault.DISCONNECTED,  # server shutdown in progress
    1927: Fault.DISCONNECTED,  # MariaDB: connection was killed
    4031: Fault.DISCONNECTED,  # MySQL 8: disconnected for inactivity
    2003: Fault.DISCONNECTED,
    2006: Fault.DISCONNECTED,
    2013: Fault.DISCONNECTED,
    2014: Fault.DISCONNECTED,
}
_SQLITE_PRIMARY_CODES = {
    5: Fault.LOCKED,  # SQLITE_BUSY
    6: Fault.LOCKED,  # SQLITE_LOCKED
    13: Fault.NO_RESOURCES,  # SQLITE_FULL
}


def classify(error: BaseException) -> Fault:
    """Return the fault that *error* is; FATAL for anything that is not a known passing one.

    Errors of asyncpg itself come from new connections only, lost while SQLAlchemy sets them up; later ones
    are wrapped.
    """
    if isinstance(error, StaleDataError | PendingRollbackError | LostRace):
        return Fault.LOST_RACE
    if isinstance(error, PoolTimeout):
        return Fault.POOL_EXHAUSTED
    if isinstance(error, DBAPIError):
        return _classify_dbapi(error)
    if isinstance(error, asyncpg.PostgresError):
        return _by_code(error) or Fault.FATAL
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return Fault.DISCONNECTED
    if isinstance(error, TimeoutError | ExecutorUnresponsive):
        return Fault.TIMED_OUT
    if isinstance(error, ConnectionError | DatabaseUnreachable):
        return Fault.DISCONNECTED
    return Fault.FATAL


def _classify_dbapi(error: DBAPIError) -> Fault:
    if error.connection_invalidated:
        return Fault.DISCONNECTED
    for cause in _causes(error.orig):
        if fault := _by_code(cause):
            return fault
        if isinstance(cause, ConnectionError):
            return Fault.DISCONNECTED
    # An OperationalError without any code is a failed connection attempt (libpq gives those none).
    return Fault.DISCONNECTED if isinstance(error, OperationalError) else Fault.FATAL


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _by_code(error: BaseException) -> Fault | None:
    """Return the fault of an error that carries a code, FATAL for an unknown code; None without a code."""
    sqlstate = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(sqlstate, str):
        # Class 08 is connection_exception.
        return Fault.DISCONNECTED if sqlstate.startswith("08") else _SQLSTATES.get(sqlstate, Fault.FATAL)
    sqlite_code = getattr(error, "sqlite_errorcode", None)
    if isinstance(sqlite_code, int):
        return _SQLITE_PRIMARY_CODES.get(sqlite_code & 0xFF, Fault.FATAL)
    first = error.args[0] if error.args else None
    if isinstance(first, int) and not isinstance(error, OSError):
        return _MYSQL_ERRNOS.get(first, Fault.FATAL)
    # Airflow raises OperationalError(orig=RuntimeError("55P03")) when the advisory lock is taken.
    if type(error) is RuntimeError and first in _SQLSTATES:
        return _SQLSTATES[first]
    return None
