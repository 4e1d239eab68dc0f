"""Who may use which session: one of its own for each transaction, or one that all routines share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from async_scheduler.database.transaction import RoutineSession
from async_scheduler.errors import DatabaseUnreachable
from async_scheduler.measure.locks import NamedLock

if TYPE_CHECKING:
    from async_scheduler.database.fence import Fence

ReportWait = Callable[[float], None]
"""Called with the seconds that a transaction waited for its connection, or for the shared session."""


def new_session(engine: AsyncEngine, fence: Fence | None = None) -> AsyncSession:
    """Return a session with Airflow's options (no autoflush, nothing expires on commit)."""
    return AsyncSession(
        engine, sync_session_class=RoutineSession, autoflush=False, expire_on_commit=False, fence=fence
    )


async def _connect(session: AsyncSession, report_wait: ReportWait, started: float) -> None:
    """Check out the session's connection.

    :raises DatabaseUnreachable: when none can be opened.
    :raises sqlalchemy.exc.TimeoutError: when none becomes free in time.
    """
    try:
        await session.connection()
    except (OSError, DBAPIError) as error:
        raise DatabaseUnreachable(error) from error
    report_wait(perf_counter() - started)


class PooledSessions:
    """A new session, and so a connection of its own, for each transaction."""

    def __init__(self, engine: AsyncEngine, report_wait: ReportWait, fence: Fence | None = None) -> None:
        self._engine = engine
        self._report_wait = report_wait
        self._fence = fence

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[AsyncSession]:
        """Lend a session whose connection is already checked out of the pool."""
        async with new_session(self._engine, self._fence) as session:
            await _connect(session, self._report_wait, perf_counter())
            yield session


class SharedSession:
    """One session for all routines, behind a fair lock: one transaction at a time.

    An ``AsyncSession`` must never be used by two tasks at once, so sharing one can only mean taking
    turns. This is the control of the experiment: the same coroutines with no concurrency in the database.
    """

    def __init__(self, engine: AsyncEngine, report_wait: ReportWait, fence: Fence | None = None) -> None:
        self._session = new_session(engine, fence)
        self._turn = NamedLock("shared session")  # first come, first served
        self._report_wait = report_wait

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[AsyncSession]:
        """Lend the session for one transaction; its objects are forgotten afterwards."""
        started = perf_counter()
        async with self._turn:
            try:
                await _connect(self._session, self._report_wait, started)
                yield self._session
            finally:
                # Returns the connection to the pool and empties the identity map; the session itself
                # is used again by the next in line.
                await self._session.close()
