"""One transaction of a routine: Airflow's code runs in it, and effects leave the process after the commit.

A session knows what must happen *only if* its transaction commits: workloads to hand to an executor,
listeners to notify. :func:`after_commit` registers such an effect on the transaction of the calling
routine; a rollback forgets it. That is what makes a hand-over before the commit impossible.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.database.fence import Fence

P = ParamSpec("P")
T = TypeVar("T")

Effect = Callable[[], object]

log = logging.getLogger(__name__)

ROLLBACK_PATIENCE = 10.0
"""Seconds a rollback may take, or the end of a connection; on a silent network it would never end."""
GOODBYE = 1.0
"""Seconds for a commit that is given up to let go of its connection."""
COMMIT_PATIENCE = 5.0
"""Seconds that what :func:`finish` is given may take after its routine was cancelled."""


class KeepsEffects(Protocol):
    """What a transaction's effects are registered with until they are due."""

    def add_effect(self, effect: Effect) -> None:
        """Keep *effect* for the end of the transaction."""


_current: ContextVar[KeepsEffects | None] = ContextVar("routine_session", default=None)


class RoutineSession(Session):
    """A sync session that keeps effects until the outermost transaction has committed.

    With a *fence*, nothing is committed for a scheduler that others have declared dead.
    """

    def __init__(self, *args: Any, fence: Fence | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fence = fence
        self._pending: list[Effect] = []
        self._due: list[Effect] = []

    def add_effect(self, effect: Effect) -> None:
        """Run *effect* once the current transaction has committed; forget it on rollback."""
        self._pending.append(effect)

    def commit(self) -> None:
        """Commit, then count the effects so far as due. Upstream code may commit several times.

        :raises SchedulerFenced: when the scheduler's job is not running any more; nothing is committed then.
        """
        if self._fence is not None:
            self._fence.guard(self)
        super().commit()
        self._due += self._pending
        self._pending = []

    def rollback(self) -> None:
        """Roll back and forget the effects of the transaction."""
        self._pending = []
        super().rollback()

    def take_pending(self) -> list[Effect]:
        """Return the effects of the current transaction, oldest first, and forget them."""
        pending, self._pending = self._pending, []
        return pending

    def take_due(self) -> list[Effect]:
        """Return the effects whose transactions have committed, oldest first, and forget them."""
        due, self._due = self._due, []
        return due


def current_session() -> RoutineSession | None:
    """Return the sync session of the transaction that the caller runs in, if any."""
    keeper = _current.get()
    return keeper if isinstance(keeper, RoutineSession) else None


@contextmanager
def effects_at_once(session: Session) -> Iterator[None]:
    """Let what the block registers as effects leave the process at its end, whatever becomes of it.

    For what says that something happened which a statement of *session*, of a connection that commits by
    itself, has done already.
    """
    if not isinstance(session, RoutineSession):
        raise TypeError(f"{type(session).__name__} keeps no effects")
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)
        for effect in session.take_pending():
            effect()


def after_commit(effect: Effect) -> None:
    """Run *effect* after the calling routine's commit, or at once outside of any transaction."""
    keeper = _current.get()
    if keeper is None:
        effect()
    else:
        keeper.add_effect(effect)


class Sessions(Protocol):
    """Where a transaction gets its session from."""

    def borrow(self) -> Any:
        """Return an async context manager that lends one :class:`AsyncSession` for one transaction."""


class Transaction:
    """An open transaction, handed to the routine by :func:`transaction`."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run *function* of Airflow's, written for a sync session, over this async one.

        The function gets what it needs, the session included, from ``args``; see :meth:`sync_session`.
        """
        return await self.session.run_sync(lambda _: function(*args, **kwargs))

    @property
    def sync_session(self) -> Session:
        """The session to pass on to Airflow's code inside :meth:`run`."""
        return self.session.sync_session


class TransactionsOfItsOwn(ABC):
    """A place for routines' transactions that opens and ends them itself: one inside a caller's, say."""

    @abstractmethod
    def borrow(self) -> Any:
        """As :meth:`Sessions.borrow`."""

    @abstractmethod
    def open(self) -> AbstractAsyncContextManager[Transaction]:
        """Return what :func:`transaction` returns for it."""

    @staticmethod
    @contextmanager
    def keeping_effects(keeper: KeepsEffects) -> Iterator[None]:
        """While the block runs, :func:`after_commit` registers effects with *keeper*."""
        token = _current.set(keeper)
        try:
            yield
        finally:
            _current.reset(token)


def transaction(sessions: Sessions) -> AbstractAsyncContextManager[Transaction]:
    """Open a transaction; commit at the end of the block and deliver its effects, or roll it back.

    Effects run after the commit even when the caller is cancelled meanwhile, and are synchronous and
    short. Errors of the block or of the commit propagate after the rollback.
    """
    return sessions.open() if isinstance(sessions, TransactionsOfItsOwn) else _borrowed(sessions)


@asynccontextmanager
async def _borrowed(sessions: Sessions) -> AsyncIterator[Transaction]:
    due: list[Effect] = []
    try:
        async with sessions.borrow() as session:
            sync_session: RoutineSession = session.sync_session
            token = _current.set(sync_session)
            try:
                yield Transaction(session)
                await finish(session.commit())
            except BaseException:
                await _roll_back(session)
                raise
            finally:
                _current.reset(token)
                due = sync_session.take_due()
    finally:
        # Also after an error: what upstream code committed on its way stays committed.
        for effect in due:
            effect()


async def finish(write: Coroutine[Any, Any, T]) -> T:
    """Let *write* end before a cancellation takes effect: else its outcome would be unknown.

    For a commit, and for a statement that commits by itself together with what follows from it. A task marked
    queued in the database whose workload was dropped here would wait for its time-out. *write* is a task of
    its own only so that a cancellation of the routine cannot reach into it; this function returns only when
    that task has ended or was given up.
    """
    task = asyncio.ensure_future(write)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=COMMIT_PATIENCE)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GOODBYE)
        # Whatever became of it: the cancellation goes on, or its task group would wait for ever.
        if task.done() and not task.cancelled() and (error := task.exception()):
            log.warning("The last write of a cancelled pass failed: %s", type(error).__name__)
        raise


async def _roll_back(session: AsyncSession) -> None:
    """Roll back; give the connection up where that fails or takes too long, so that nothing hangs here."""
    try:
        async with asyncio.timeout(ROLLBACK_PATIENCE):
            await session.rollback()
    except (TimeoutError, SQLAlchemyError, OSError) as error:
        log.warning("A rollback failed (%s): its connection is closed", type(error).__name__)
        await give_up(session)


async def give_up(session: AsyncSession) -> None:
    """Close the connection of *session*, whatever state it is in: it is not used again."""
    try:
        async with asyncio.timeout(ROLLBACK_PATIENCE):
            await session.invalidate()
    except (TimeoutError, SQLAlchemyError, OSError) as error:
        log.warning("A connection could not be closed (%s)", type(error).__name__)
