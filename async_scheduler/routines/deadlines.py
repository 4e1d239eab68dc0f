"""Per-loop work beside task instances: missed deadlines, executor callbacks, connection tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.utils.sqlalchemy import with_row_locks
from sqlalchemy import select
from sqlalchemy.orm import selectinload

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session


class HandleMissedDeadlines:
    """Mirrors the loop's deadline step.

    Locks: ``deadline`` UPDATE SKIP LOCKED, so that of several schedulers one handles a miss, until the
    commit.
    """

    name = "deadlines"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        self._sessions = sessions

    async def run_once(self) -> Outcome:
        """Handle the deadlines missed by now; report how many."""
        async with transaction(self._sessions) as tx:
            missed = await tx.run(_handle_misses, tx.sync_session)
        return Outcome({"missed": missed}, progressed=missed > 0)


def _handle_misses(session: Session) -> int:
    query = (
        select(Deadline)
        .where(Deadline.deadline_time < timezone.utcnow(), ~Deadline.missed)
        .options(selectinload(Deadline.callback), selectinload(Deadline.dagrun))
    )
    locked = with_row_locks(query, of=Deadline, session=session, skip_locked=True, key_share=False)
    deadlines = list(session.scalars(locked))
    for deadline in deadlines:
        deadline.handle_miss(session)
    return len(deadlines)


class EnqueueExecutorCallbacks:
    """Mirrors ``SchedulerJobRunner._enqueue_executor_callbacks``. Locks: none, as upstream."""

    name = "executor_callbacks"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        self._scheduler = scheduler
        self._sessions = sessions

    async def run_once(self) -> Outcome:
        """Queue pending callbacks; their workloads reach the executors after the commit."""
        async with transaction(self._sessions) as tx:
            await tx.run(self._enqueue, tx.sync_session)
        return Outcome()

    def _enqueue(self, session: Session) -> None:
        with _runs_found_by_number(session):
            self._scheduler._enqueue_executor_callbacks(session)


@contextmanager
def _runs_found_by_number(session: Session) -> Iterator[None]:
    """While the block runs, *session* finds a run whose number is given as text.

    That is how Airflow keeps it in a callback's data (``Deadline.handle_miss``). psycopg2 does not mind;
    asyncpg refuses it, and the error would end the scheduler.
    """
    get = session.get

    def get_by_number(entity: Any, ident: Any, **options: Any) -> Any:
        number = entity is DagRun and isinstance(ident, str) and ident.isdecimal()
        return get(entity, int(ident) if number else ident, **options)

    session.get = get_by_number  # type: ignore[method-assign]
    try:
        yield
    finally:
        del session.get


class EnqueueConnectionTests:
    """Mirrors ``SchedulerJobRunner._enqueue_connection_tests``.

    Locks: ``connection_test_request`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """

    name = "connection_tests"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        self._scheduler = scheduler
        self._sessions = sessions

    async def run_once(self) -> Outcome:
        """Queue pending connection tests within their budget."""
        async with transaction(self._sessions) as tx:
            await tx.run(self._scheduler._enqueue_connection_tests, session=tx.sync_session)
        return Outcome()
