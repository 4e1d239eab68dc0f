"""Starts queued dag runs, as far as ``max_active_runs`` of dags and backfills allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session


class StartDagRuns:
    """Mirrors ``SchedulerJobRunner._start_queued_dagruns``.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED (a window of 20), ``backfill`` UPDATE SKIP LOCKED, until the
    commit.
    """

    name = "start"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        self._scheduler = scheduler
        self._sessions = sessions

    async def run_once(self) -> Outcome:
        """Start what may start; report how many runs."""
        async with transaction(self._sessions) as tx:
            started = await tx.run(self._start, tx.sync_session)
        return Outcome({"started": started}, progressed=started > 0, more=started > 0)

    def _start(self, session: Session) -> int:
        self._scheduler._start_queued_dagruns(session)
        return sum(isinstance(o, DagRun) and o.state == DagRunState.RUNNING for o in session.dirty)
