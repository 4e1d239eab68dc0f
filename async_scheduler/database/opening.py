"""What is found out about the database before the scheduler starts working on it.

Whether it can be reached at all, whether a pooler such as PgBouncer stands in between, and whether a second
scheduler may run on it. Everything here happens before executors and event loop start.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.engine import create_engine
from async_scheduler.errors import DatabaseUnreachable, SecondScheduler
from async_scheduler.store.dialect import takes_row_locks
from async_scheduler.store.sole import find_earlier, note_alive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

log = logging.getLogger(__name__)

LOOK_AGAIN = 1.0
"""Seconds between two looks at an earlier scheduler that may be dead."""


async def finds_pooler(pool_timeout: float) -> bool:
    """Connect once, and return whether a pooler answers in the server's place.

    A PostgreSQL server tells each client which process serves it. PgBouncer tells a number of its own.

    :raises DatabaseUnreachable: when no connection can be opened, with the driver's reason.
    :raises UnsupportedConnection: when the driver cannot connect in the way that is asked for.
    """
    async with _connection(pool_timeout) as connection:
        if connection.dialect.name != "postgresql":
            return False
        raw: Any = (await connection.get_raw_connection()).driver_connection
        told = raw.get_server_pid() if connection.dialect.driver == "asyncpg" else raw.info.backend_pid
        return bool(told != await connection.scalar(text("SELECT pg_backend_pid()")))


@asynccontextmanager
async def _connection(pool_timeout: float) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(1, pool_timeout, pgbouncer=True, reads_only=True)
    try:
        async with engine.connect() as connection:
            yield connection
    except (OSError, DBAPIError) as error:
        own = _drivers_own(error)
        raise DatabaseUnreachable(own, _first_line(own, engine.url.password)) from error
    finally:
        await engine.dispose()


def _drivers_own(error: BaseException) -> BaseException:
    """Return the error that SQLAlchemy has wrapped, for some drivers twice."""
    original: BaseException = getattr(error, "orig", None) or error
    return original.__cause__ or original


def _first_line(error: BaseException, password: str | None) -> str:
    """Return what the driver says, without the password should it be among it."""
    line = next(iter(str(error).splitlines()), "")
    return line.replace(password, "***") if password else line


def refuse_second_scheduler(job: int, wait: Callable[[float], object] = time.sleep) -> None:
    """Make sure that *job* is the only scheduler where Airflow takes no row locks.

    An earlier scheduler that was killed leaves a job that looks alive until ``[scheduler]
    scheduler_health_check_threshold`` has passed: that is waited for. One that is alive shows it by its
    next heartbeat.

    :raises SecondScheduler: when an earlier scheduler is alive.
    """
    from airflow import settings
    from airflow._shared.timezones import timezone
    from airflow.configuration import conf
    from airflow.utils.session import create_session

    dialect = settings.engine.dialect
    if takes_row_locks(dialect):
        return
    threshold = timedelta(seconds=conf.getint("scheduler", "scheduler_health_check_threshold"))
    seen: dict[int, object] = {}
    while True:
        with create_session() as session:
            now = timezone.utcnow()
            note_alive(session, job, now)
            others = find_earlier(session, job, now - threshold)
        if not others:
            return
        for other in others:
            if other.id not in seen:
                log.info("Waiting to see whether scheduler job %d is dead or alive", other.id)
            if seen.setdefault(other.id, other.latest_heartbeat) != other.latest_heartbeat:
                raise SecondScheduler(_name(dialect), other.id, other.hostname)
        wait(LOOK_AGAIN)


def _name(dialect: Any) -> str:
    if getattr(dialect, "is_mariadb", False):
        return "MariaDB"
    names = {"sqlite": "SQLite", "mysql": "MySQL", "postgresql": "PostgreSQL"}
    return names.get(dialect.name, str(dialect.name))
