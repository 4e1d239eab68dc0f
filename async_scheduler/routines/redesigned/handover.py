"""Hands runs to Airflow's own ``_schedule_dag_run``: those with features that are not decided here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.utils.sqlalchemy import with_row_locks
from airflow.utils.state import State
from sqlalchemy import select

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.routines.upstream.schedule import examine_and_send

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

    from async_scheduler.database.transaction import Transaction


@dataclass(slots=True)
class HandedOver:
    """What Airflow's code did with the runs it was given."""

    scheduled: int = 0
    flagged: int = 0
    ended: list[int] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether another pass may change more: Airflow advances a run by one level at a time."""
        return bool(self.scheduled or self.flagged)


class Handover:
    """Runs Airflow's code for some runs, in the caller's transaction or in one of its own."""

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        self._scheduler = scheduler
        self._sessions = sessions

    async def examine(self, run: int) -> HandedOver | None:
        """Examine one run in a transaction of its own; None if it is locked or not running any more.

        Locks: its ``dag_run`` row NO KEY UPDATE SKIP LOCKED, then whatever Airflow's code locks.
        """
        async with transaction(self._sessions) as tx:
            return await tx.run(self._claim_and_examine, run, tx.sync_session)

    def _claim_and_examine(self, run: int, session: Session) -> HandedOver | None:
        query = select(DagRun).where(DagRun.id == run, DagRun.state == "running")
        locked = with_row_locks(query, of=DagRun, session=session, skip_locked=True)
        found = list(session.scalars(locked).unique())
        return self._examine(found, session) if found else None

    async def close(self, tx: Transaction, runs: Collection[int]) -> HandedOver:
        """Let Airflow's code end runs whose rows the caller's transaction has locked and brought to rest.

        Their callbacks are written in the same transaction.
        """
        return await tx.run(self._load_and_examine, runs, tx.sync_session)

    def _load_and_examine(self, runs: Collection[int], session: Session) -> HandedOver:
        query = select(DagRun).where(DagRun.id.in_(runs)).order_by(DagRun.id)
        return self._examine(list(session.scalars(query).unique()), session)

    def _examine(self, runs: Sequence[Any], session: Session) -> HandedOver:
        self._scheduler._stamp_team_names(runs, session)
        changes = examine_and_send(self._scheduler, runs, session)
        ended = [run.id for run in runs if run.state in State.finished_dr_states]
        return HandedOver(changes.scheduled, changes.flagged, ended)
