"""Who may use which session: one of its own for each transaction, or one that all routines share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as WaitedTooLong
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from async_scheduler.database.transaction import RoutineSession
from async_scheduler.errors import DatabaseUnreachable
from async_scheduler.measure.locks import NamedLock

if TYPE_CHECKING:
    from async_scheduler.database.fence import Fence
    from async_scheduler.database.transaction import Sessions

ReportWait = Callable[[float], None]
"""Called with the seconds that a transaction waited for its connection, or for the shared session."""


def new_session(engine: AsyncEngine, fence: Fence | None = None) -> AsyncSession:
    """Return a session with Airflow's options (no autoflush, nothing expires on commit)."""
    return AsyncSession(
        engine, sync_session_class=RoutineSession, autoflush=False, expire_on_commit=False, fence=fence
    )


async def connect(
    session: AsyncSession,
    report_wait: ReportWait,
    started: float,
    execution_options: Mapping[str, Any] | None = None,
) -> None:
    """Check out the session's connection, and report the seconds since *started*.

    :raises DatabaseUnreachable: when none can be opened.
    :raises sqlalchemy.exc.TimeoutError: when none becomes free in time.
    """
    try:
        await session.connection(execution_options=execution_options)
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
            await connect(session, self._report_wait, perf_counter())
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
                await connect(self._session, self._report_wait, started)
                yield self._session
            finally:
                # Returns the connection to the pool and empties the identity map; the session itself
                # is used again by the next in line.
                await self._session.close()


HELD = 0.2
"""Seconds for which transactions may follow each other before others get a turn."""
FREE = 0.15
"""Seconds that such a turn lasts. SQLite's connections do not queue for the writer but ask every 100 ms once
they have waited for a while, so in a shorter one some would never ask."""


class LeavingTurns:
    """Lends the sessions of others one at a time, and from time to time none: on SQLite.

    A transaction there keeps every other process from writing, and without gaps that are long enough to be
    noticed those processes would wait in vain.

    :param timeout: seconds that a transaction waits for those before it.
    :param held: others get a turn when transactions have been open for so many seconds in all, with gaps that
        are shorter than such a turn.
    :param free: how many seconds it lasts.
    """

    def __init__(
        self,
        sessions: Sessions,
        report_wait: ReportWait,
        timeout: float,
        held: float = HELD,
        free: float = FREE,
    ) -> None:
        self._sessions = sessions
        self._report_wait = report_wait
        self._timeout = timeout
        self._held_at_most = held
        self._free = free
        self._turn = NamedLock("writer")
        self._held = 0.0
        self._ended = perf_counter() - free

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[AsyncSession]:
        """Lend one for one transaction, after the turn of others if that has come.

        :raises sqlalchemy.exc.TimeoutError: when those before it take too long.
        """
        started = perf_counter()
        await self._wait()
        try:
            await self._leave_turn()
            async with self._sessions.borrow() as session:
                began = perf_counter()
                self._report_wait(began - started)
                try:
                    yield session
                finally:
                    self._ended = perf_counter()
                    self._held += self._ended - began
        finally:
            self._turn.release()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError as error:
            raise WaitedTooLong(f"No turn at the database within {self._timeout:g} s") from error

    async def _leave_turn(self) -> None:
        left = self._ended + self._free - perf_counter()
        if left > 0 and self._held >= self._held_at_most:
            await asyncio.sleep(left)
            left = 0.0
        if left <= 0:
            self._held = 0.0
