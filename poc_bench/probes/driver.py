"""Counts statements at the database driver, inside the scheduler's process.

Loaded by ``airflow_local_settings`` before the first engine is made. It wraps the dialect methods that every
statement, commit, rollback and ping of SQLAlchemy passes, for blocking drivers and for those on an event
loop. It also keeps some of the metrics that Airflow itself emits. All arms carry the same probe.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from poc_bench.probes.counters import Counters

COUNTERS_DIRECTORY = "POC_BENCH_COUNTERS_DIRECTORY"
RETRIES = "async_scheduler.routine.retries"
KEPT_STATS = ("scheduler.critical_section_busy", "async_scheduler.loop_lag", RETRIES)

DIALECTS = (
    "postgresql.psycopg2",
    "postgresql.asyncpg",
    "postgresql.psycopg",
    "mysql.mysqldb",
    "mysql.aiomysql",
)
ONE_TRIP_EACH = ("psycopg2", "mysqldb")
"""Drivers whose ``executemany`` sends one statement after another."""
PING_TRIPS = {"asyncpg": 3}
"""asyncpg's ping is a transaction: BEGIN, ping, ROLLBACK."""

Method = Callable[..., Any]


def install() -> None:
    """Wrap SQLAlchemy's dialects and Airflow's metrics in this process, if the harness asked for it."""
    folder = os.environ.get(COUNTERS_DIRECTORY)
    if folder is None:
        return
    counters = Counters()
    wrap_dialects(counters)
    _wrap_stats(counters)
    count_retries(counters)
    owner = os.getpid()

    def leave() -> None:
        if os.getpid() == owner:
            counters.write(Path(folder))

    atexit.register(leave)


def wrap_dialects(counters: Counters, replace: Callable[[type, str, Method], None] = setattr) -> None:
    """Wrap each method wherever a dialect defines it; *replace* puts the wrapper in place."""
    from sqlalchemy.engine.interfaces import Dialect

    classes = [
        base for name in DIALECTS for base in import_module(f"sqlalchemy.dialects.{name}").dialect.mro()
    ]
    wrappers: dict[str, Callable[[Counters, Method], Method]] = {
        "do_execute": _execute,
        "do_execute_no_params": _execute,
        "do_executemany": _executemany,
        "do_commit": _ending("commits"),
        "do_rollback": _ending("rollbacks"),
        "do_ping": _ping,
        "connect": _connect,
    }
    for found in dict.fromkeys(classes):
        for name, wrapper in wrappers.items():
            if name in vars(found) and found is not Dialect:
                replace(found, name, wrapper(counters, vars(found)[name]))


def _in_transaction(connection: Any) -> bool:
    """Whether a transaction is open on a driver's connection, as far as the driver tells.

    psycopg2 has it in ``status`` (1 is ready), the adapter around asyncpg in ``_transaction``. Others are
    taken to be always in one: MySQL's drivers send no BEGIN.
    """
    status = getattr(connection, "status", None)
    if isinstance(status, int):
        return status != 1
    return getattr(connection, "_transaction", connection) is not None


def _connection(cursor: Any) -> Any:
    return getattr(cursor, "_adapt_connection", None) or cursor.connection


def _starts_transaction(cursor: Any) -> bool:
    return not _commits_itself(cursor) and not _in_transaction(_connection(cursor))


def _commits_itself(cursor: Any) -> bool:
    """Whether each statement is a transaction of its own."""
    return getattr(_connection(cursor), "autocommit", False) is True


def _execute(counters: Counters, original: Method) -> Method:
    def do_execute(dialect: Any, cursor: Any, *arguments: Any, **named: Any) -> None:
        amounts = {
            "statements": 1.0,
            "round_trips": 1.0 + _starts_transaction(cursor),
            "hidden_commits": float(_commits_itself(cursor)),
        }
        began = counters.begin()
        try:
            original(dialect, cursor, *arguments, **named)
            amounts["rows"] = max(0, cursor.rowcount)
        except dialect.loaded_dbapi.Error as error:
            amounts["errors"] = 1
            counters.failed(sqlstate(error))
            raise
        finally:
            counters.end(began, amounts)

    return do_execute


def _executemany(counters: Counters, original: Method) -> Method:
    def do_executemany(
        dialect: Any, cursor: Any, statement: Any, parameters: Any, context: Any = None
    ) -> None:
        trips = len(parameters) if dialect.driver in ONE_TRIP_EACH else 1
        amounts: dict[str, float] = {"statements": len(parameters)}
        amounts["round_trips"] = trips + _starts_transaction(cursor)
        began = counters.begin()
        try:
            original(dialect, cursor, statement, parameters, context)
            amounts["rows"] = max(0, cursor.rowcount)
        except dialect.loaded_dbapi.Error as error:
            amounts["errors"] = 1
            counters.failed(sqlstate(error))
            raise
        finally:
            counters.end(began, amounts)

    return do_executemany


def _ending(field: str) -> Callable[[Counters, Method], Method]:
    def wrapper(counters: Counters, original: Method) -> Method:
        def do_end(dialect: Any, connection: Any) -> None:
            if not _in_transaction(connection):
                original(dialect, connection)
                return
            began = counters.begin()
            try:
                original(dialect, connection)
            finally:
                counters.end(began, {field: 1, "round_trips": 1})

        return do_end

    return wrapper


def _ping(counters: Counters, original: Method) -> Method:
    def do_ping(dialect: Any, connection: Any) -> Any:
        began = counters.begin()
        try:
            return original(dialect, connection)
        finally:
            hidden = dialect.driver not in PING_TRIPS
            trips = PING_TRIPS.get(dialect.driver, 1)
            counters.end(began, {"pings": 1, "round_trips": trips, "hidden_commits": hidden})

    return do_ping


def _connect(counters: Counters, original: Method) -> Method:
    def connect(dialect: Any, *arguments: Any, **named: Any) -> Any:
        began = counters.begin()
        try:
            return original(dialect, *arguments, **named)
        finally:
            counters.end(began, {"hidden_commits": 1})

    return connect


def _wrap_stats(counters: Counters) -> None:
    from airflow._shared.observability.metrics import stats

    incr, gauge, timing = stats.incr, stats.gauge, stats.timing

    def kept_incr(stat: str, count: int | None = None, *arguments: Any, **named: Any) -> None:
        if stat in KEPT_STATS:
            counters.stat(stat, 1 if count is None else count)
        incr(stat, count, *arguments, **named)

    def kept_gauge(stat: str, value: float, *arguments: Any, **named: Any) -> None:
        if stat in KEPT_STATS:
            counters.stat(stat, value)
        gauge(stat, value, *arguments, **named)

    def kept_timing(stat: str, dt: Any, *arguments: Any, **named: Any) -> None:
        if stat in KEPT_STATS:
            counters.stat(stat, dt.total_seconds() * 1000 if hasattr(dt, "total_seconds") else dt)
        timing(stat, dt, *arguments, **named)

    stats.incr, stats.gauge, stats.timing = kept_incr, kept_gauge, kept_timing


def count_retries(counters: Counters, replace: Callable[[Any, str, Method], None] = setattr) -> None:
    """Count the retries of Airflow's own code as the async scheduler's driver counts its own.

    Before any module takes ``run_with_db_retries`` by name; *replace* puts the wrapper in place.
    """
    from airflow.utils import retries

    original = retries.run_with_db_retries

    def counted(*arguments: Any, **named: Any) -> Any:
        attempts = original(*arguments, **named)
        before = attempts.before_sleep

        def before_sleep(state: Any) -> None:
            counters.stat(RETRIES, 1)
            if before is not None:
                before(state)

        attempts.before_sleep = before_sleep
        return attempts

    replace(retries, "run_with_db_retries", counted)


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a driver's error, or the name of its class."""
    for holder in (error, error.__cause__):
        for name in ("sqlstate", "pgcode"):
            if isinstance(code := getattr(holder, name, None), str):
                return code
    return type(error).__name__
