"""Database errors are sorted by SQLSTATE or errno, whatever driver raised them."""

from __future__ import annotations

import sqlite3

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from async_scheduler.database.faults import Fault, classify
from async_scheduler.errors import DatabaseUnreachable, ExecutorUnresponsive


class AsyncpgError(Exception):
    """An error as asyncpg raises it: with a ``sqlstate``."""

    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate
        super().__init__("message that must not matter: deadlock detected")


class Psycopg2Error(Exception):
    """An error as psycopg2 raises it: with a ``pgcode``."""

    def __init__(self, pgcode: str | None) -> None:
        self.pgcode = pgcode


class MySQLError(Exception):
    """An error as the MySQL drivers raise it: errno first."""


def wrapped(orig: BaseException, *, kind: type[DBAPIError] = DBAPIError, lost: bool = False) -> DBAPIError:
    """Return *orig* as SQLAlchemy hands it on."""
    return kind("statement", {}, orig, connection_invalidated=lost)


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("55P03", Fault.LOCKED),
        ("40P01", Fault.DEADLOCK),
        ("40001", Fault.LOST_RACE),
        ("23505", Fault.LOST_RACE),
        ("57014", Fault.TIMED_OUT),
        ("57P01", Fault.DISCONNECTED),
        ("08003", Fault.DISCONNECTED),
        ("08P01", Fault.DISCONNECTED),
        ("42P01", Fault.FATAL),  # undefined_table
        ("53100", Fault.NO_RESOURCES),  # disk_full
        ("58030", Fault.FATAL),  # io_error
    ],
)
@pytest.mark.parametrize("error", [AsyncpgError, Psycopg2Error])
def test_postgresql_errors_by_sqlstate(error: type[Exception], sqlstate: str, fault: Fault) -> None:
    assert classify(wrapped(error(sqlstate))) is fault


@pytest.mark.parametrize(
    ("errno", "fault"),
    [
        (1205, Fault.LOCKED),
        (3572, Fault.LOCKED),
        (1213, Fault.DEADLOCK),
        (2013, Fault.DISCONNECTED),
        (2006, Fault.DISCONNECTED),
        (1146, Fault.FATAL),  # no such table
    ],
)
def test_mysql_errors_by_errno(errno: int, fault: Fault) -> None:
    assert classify(wrapped(MySQLError(errno, "text"))) is fault


def test_sqlite_busy_by_result_code(tmp_path: object) -> None:
    first = sqlite3.connect(f"{tmp_path}/db", timeout=0, isolation_level=None)
    second = sqlite3.connect(f"{tmp_path}/db", timeout=0, isolation_level=None)
    first.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as busy:
        second.execute("BEGIN IMMEDIATE")
    assert classify(wrapped(busy.value, kind=OperationalError)) is Fault.LOCKED
    first.close()
    second.close()


def test_cause_below_the_adapter_is_found() -> None:
    adapter = Exception("adapted")
    adapter.__cause__ = AsyncpgError("40P01")
    assert classify(wrapped(adapter)) is Fault.DEADLOCK


def test_airflows_advisory_lock_error_is_a_lock_not_available() -> None:
    error = OperationalError("Failed to acquire advisory lock", None, RuntimeError("55P03"))
    assert classify(error) is Fault.LOCKED


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (wrapped(Exception("closed"), lost=True), Fault.DISCONNECTED),
        (wrapped(Psycopg2Error(None), kind=OperationalError), Fault.DISCONNECTED),
        (wrapped(Exception("cannot perform operation")), Fault.FATAL),
        (wrapped(Psycopg2Error("58030"), kind=OperationalError), Fault.FATAL),  # io_error
        (wrapped(MySQLError(1045, "access denied"), kind=OperationalError), Fault.FATAL),
        (StaleDataError("0 rows matched"), Fault.LOST_RACE),
        (PendingRollbackError("rolled back"), Fault.LOST_RACE),
        (PoolTimeout("QueuePool limit"), Fault.POOL_EXHAUSTED),
        (TimeoutError(), Fault.TIMED_OUT),
        (ConnectionResetError(), Fault.DISCONNECTED),
        (DatabaseUnreachable(OSError()), Fault.DISCONNECTED),
        (ExecutorUnresponsive("x", "revoke_task", 1), Fault.TIMED_OUT),
        # As they are: from a new connection that is lost before SQLAlchemy has set it up.
        (asyncpg.InterfaceError("connection is closed"), Fault.DISCONNECTED),
        (asyncpg.InternalClientError("cannot switch to state 12"), Fault.DISCONNECTED),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle"), Fault.DISCONNECTED),
        (asyncpg.AdminShutdownError("terminating connection"), Fault.DISCONNECTED),
        (asyncpg.InvalidPasswordError("no"), Fault.FATAL),
        (FileNotFoundError(), Fault.FATAL),
        (RuntimeError("UNEXPECTED COMMIT"), Fault.FATAL),
    ],
)
def test_other_errors(error: BaseException, fault: Fault) -> None:
    assert classify(error) is fault


def test_a_number_in_an_ordinary_error_is_no_errno() -> None:
    assert classify(ValueError(1213)) is Fault.FATAL
