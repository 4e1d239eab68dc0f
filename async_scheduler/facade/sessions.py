"""Transactions of routines inside the transaction of a caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.ext.asyncio import AsyncSession

from async_scheduler.database.transaction import Effect, Transaction, TransactionsOfItsOwn
from async_scheduler.facade.visible import show_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import NestedTransaction
    from sqlalchemy.orm import Session


class OverBlockingDriver(AsyncSession):
    """An async session on a sync session whose driver blocks.

    SQLAlchemy's own asks each result's cursor to close in the async way, which such a driver's cannot.
    """

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Session.execute``."""
        return await self.run_sync(lambda session: session.execute(*args, **kwargs))

    async def scalars(self, *args: Any, **kwargs: Any) -> Any:
        """As ``Session.scalars``."""
        return await self.run_sync(lambda session: session.scalars(*args, **kwargs))


class _Effects:
    """What is to happen once the savepoint is released."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []

    def add_effect(self, effect: Effect) -> None:
        self._effects.append(effect)

    def run(self) -> None:
        for effect in self._effects:
            effect()


class CallerSessions(TransactionsOfItsOwn):
    """Each transaction of a routine is a savepoint in the transaction of *session*, which is its caller's.

    It neither commits nor rolls back what the caller has begun. What the caller has not flushed is flushed
    first, so that Core statements see it; what they write is shown on the caller's objects at the end.
    Effects take place when the savepoint is released, in order: Airflow's methods hand over to executors
    and call listeners before their caller commits, and so does a call that stands for one.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[AsyncSession]:
        """Lend an async session that is the caller's own underneath."""
        yield self._over_caller()

    def _over_caller(self) -> AsyncSession:
        return OverBlockingDriver(sync_session_class=cast("Any", lambda **_: self._session))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Transaction]:
        """Open a savepoint; release it at the end of the block, or return to it after an error."""
        session, effects = self._session, _Effects()
        session.flush()
        before = set(session.identity_map.keys())
        savepoint = _savepoint(session)
        try:
            with self.keeping_effects(effects):
                yield Transaction(self._over_caller())
                session.flush()
        except BaseException:
            _undo(session, savepoint, before)
            raise
        # Airflow's own code may have committed on its way, which has ended the savepoint too.
        if savepoint.is_active:
            savepoint.commit()
        show_rows(session)
        effects.run()


def _savepoint(session: Session) -> NestedTransaction:
    """Set a savepoint below the session, so that the events of a commit, which may be prohibited, stay out.

    SQLite's driver begins a transaction only at the first write: without one, releasing the savepoint would
    commit.
    """
    connection = session.connection()
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite" and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")
    return connection.begin_nested()


def _undo(session: Session, savepoint: NestedTransaction, before: set[Any]) -> None:
    """Return to the savepoint and make the session forget what came after it."""
    if savepoint.is_active:
        savepoint.rollback()
    for instance in (*session.new, *session.identity_map.values()):
        if getattr(instance, "_sa_instance_state").key not in before:  # noqa: B009
            session.expunge(instance)
    session.expire_all()
