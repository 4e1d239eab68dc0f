"""The critical section: queues scheduled task instances within pools, limits and executor slots."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow._shared.observability.metrics import stats
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.faults import Fault, classify
from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import NOTHING, Outcome

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

log = logging.getLogger(__name__)


class EnqueueTaskInstances:
    """Mirrors the end of ``SchedulerJobRunner._do_scheduling``.

    Locks: transaction advisory lock (try), all of ``slot_pool`` NO KEY UPDATE NOWAIT, ``task_instance`` NO
    KEY UPDATE SKIP LOCKED, until the commit. Workloads reach the executors after it.
    """

    name = "enqueue"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions, look_again: float) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._look_again = look_again

    async def run_once(self) -> Outcome:
        """Queue what fits; report how many, or that another scheduler holds the section."""
        if sum(executor.slots_available for executor in self._scheduler.executors) <= 0:
            log.debug("All executors are full, skipping critical section")
            return NOTHING
        timer = stats.timer("scheduler.critical_section_duration")
        timer.start()
        try:
            async with transaction(self._sessions) as tx:
                queued = await tx.run(self._enqueue, tx.sync_session)
        except DBAPIError as error:
            timer.stop(send=False)
            # Not `except OperationalError`: under asyncpg the pool's NOWAIT fails with a plain DBAPIError.
            if classify(error) is not Fault.LOCKED:
                raise
            log.debug("Critical section lock held by another scheduler")
            stats.incr("scheduler.critical_section_busy")
            return Outcome({"busy": 1}, due_in=self._look_again)
        timer.stop(send=True)
        # A full batch has more behind it. A smaller one may have stopped at starved tasks: upstream stops
        # at the first batch that queued anything, so look again soon.
        full = queued >= (self._scheduler.job.max_tis_per_query or 1) > 0
        return Outcome(
            {"queued": queued},
            progressed=queued > 0,
            more=full,
            due_in=self._look_again if queued else None,
        )

    def _enqueue(self, session: Session) -> int:
        with prohibit_commit(session) as guard:
            queued: int = self._scheduler._critical_section_enqueue_task_instances(session=session)
            guard.commit()
        return queued
