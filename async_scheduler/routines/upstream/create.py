"""Creates the dag runs that are due: by timetable, by asset events, by asset partitions."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy import event

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.store.creation import find_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

LONGEST = 1.0
"""Seconds between two looks from which on the interval of the routine decides."""


class CreateDagRuns:
    """Mirrors ``SchedulerJobRunner._create_dagruns_for_dags``.

    *look_up_ahead* makes the block around the transaction in which the variables of deadlines are known.
    Where dags are due of which it could take none, it looks again after *look_again* seconds, then after
    twice as long and so on until its interval is shorter: a DAG processor that waited for the rows has them
    next, and keeps them for a whole parse.

    Locks: ``dag`` NO KEY UPDATE SKIP LOCKED, ``asset_dag_run_queue`` and partitions UPDATE SKIP LOCKED, all
    until one commit.
    """

    name = "create"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        look_again: float,
        look_up_ahead: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._look_again = self._wait = look_again
        self._look_up_ahead = look_up_ahead

    async def run_once(self) -> Outcome:
        """Create what is due; report how many runs."""
        async with self._look_up_ahead(), transaction(self._sessions) as tx:
            created = await tx.run(self._create, tx.sync_session)
        if created:
            self._wait = self._look_again
            return Outcome({"created": created}, progressed=True, more=True)
        return Outcome({"created": 0}, due_in=await self._missed())

    async def _missed(self) -> float | None:
        """Return when to look again after a pass that created nothing, None for when the interval is over."""
        async with transaction(self._sessions) as tx:
            work = await find_work(tx.session)
        if not work.scheduled:
            self._wait = self._look_again
            return None
        wait = self._wait
        self._wait = min(2 * wait, LONGEST)
        return wait if wait < LONGEST else None

    def _create(self, session: Session) -> int:
        created = 0

        def count(flushed: Session, _context: Any, _instances: Any) -> None:
            nonlocal created
            created += sum(isinstance(new, DagRun) for new in flushed.new)

        event.listen(session, "before_flush", count)
        try:
            with prohibit_commit(session) as guard:
                self._scheduler._create_dagruns_for_dags(guard, session)
        finally:
            event.remove(session, "before_flush", count)
        return created
