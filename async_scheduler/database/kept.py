"""Sessions whose statements commit by themselves: a connection at hand, nothing to begin and to commit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from async_scheduler.database.sessions import connect, new_session
from async_scheduler.database.transaction import Transaction, TransactionsOfItsOwn, give_up

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

    from async_scheduler.database.sessions import ReportWait

KEPT_FOR = 10.0
"""Seconds after which the connection goes back to the pool for a moment: it may be due to be replaced, and a
trace that has been started meanwhile sees connections from when they are taken."""


class KeptSession(TransactionsOfItsOwn):
    """Lends one session again and again, whose connection commits each statement by itself.

    For one routine that looks often, or writes in one statement. Nothing guards its commits: such a statement
    has to ask by itself whether the scheduler's job is alive, and to wait for nobody, as it may be carried
    out after it was given up. Under READ COMMITTED
    each statement sees what is committed when it begins, in a transaction or not: BEGIN and COMMIT are two
    more round trips for nothing, and a session and the way to the pool cost as much again. Not behind
    PgBouncer, where to prepare and to execute would be two transactions, on two servers if it so happens.
    The connection is one of the pool's for good, so the pool must have it to spare.
    """

    def __init__(self, engine: AsyncEngine, report_wait: ReportWait, kept_for: float = KEPT_FOR) -> None:
        self._engine = engine
        self._report_wait = report_wait
        self._kept_for = kept_for
        self._session: AsyncSession | None = None
        self._opened = 0.0

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[AsyncSession]:
        """Lend the session to one borrower at a time. After an error its connection is not used again.

        :raises DatabaseUnreachable: when no connection can be opened.
        :raises sqlalchemy.exc.TimeoutError: when none becomes free in time.
        """
        session = await self._at_hand()
        try:
            yield session
        except BaseException:
            self._session = None
            # Whatever a statement that failed, or was given up, has left of the connection.
            await give_up(session)
            raise

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Transaction]:
        """Lend it as a transaction is lent: there is none, and nothing waits for its end."""
        async with self.borrow() as session:
            yield Transaction(session)

    async def aclose(self) -> None:
        """Give the connection back to the pool."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _at_hand(self) -> AsyncSession:
        if monotonic() - self._opened >= self._kept_for:
            await self.aclose()
        if self._session is None:
            session = new_session(self._engine)
            await connect(session, self._report_wait, perf_counter(), {"isolation_level": "AUTOCOMMIT"})
            self._session, self._opened = session, monotonic()
        return self._session
