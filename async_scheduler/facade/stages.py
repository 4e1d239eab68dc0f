"""The redesigned stages, cut to what Airflow's private methods do: each on rows that the caller names."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, State
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import selectinload

from async_scheduler.database.transaction import Transaction, transaction
from async_scheduler.errors import LostRace
from async_scheduler.facade.visible import show_rows
from async_scheduler.routines.redesigned.create import CreateDagRuns
from async_scheduler.routines.redesigned.dirty import DirtyRuns
from async_scheduler.routines.redesigned.enqueue import EnqueueTaskInstances, _described, _report
from async_scheduler.routines.redesigned.handover import HandedOver, Handover
from async_scheduler.routines.redesigned.passes import Pass
from async_scheduler.routines.redesigned.schedule import ScheduleTaskInstances
from async_scheduler.routines.redesigned.start import StartDagRuns
from async_scheduler.store.given import load_dags, load_instances, load_runs, release_from
from async_scheduler.store.limits import COUNTED_RUN_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dag import DagModel
    from sqlalchemy.orm import Session

    from async_scheduler.database.transaction import Sessions
    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.section import Section
    from async_scheduler.store.queued import StartableRun
    from async_scheduler.store.running import ClaimedRun
    from async_scheduler.store.scheduled import QueuedRow

log = logging.getLogger(__name__)

MOST_RACES = 5
"""How often rows may change under a call before it gives up."""
ADVISORY_LOCK_TAKEN = "55P03"


class HandoverToCaller(Handover):
    """Hands runs to Airflow's ``_schedule_dag_run`` in the caller's transaction; keeps what came of it.

    Nothing is committed and no callback sent: that is the caller's to do.
    """

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions) -> None:
        super().__init__(scheduler, sessions)
        self.callbacks: dict[int, Any] = {}
        self.errors: dict[int, Exception] = {}

    async def examine(self, run: int) -> HandedOver | None:
        """Examine one run that the caller has claimed."""
        try:
            async with transaction(self._sessions) as tx:
                return await self.close(tx, [run])
        except DBAPIError:
            raise
        except Exception as error:  # the caller decides: one method raises it, another logs it
            self.errors[run] = error
            return None

    def _examine(self, runs: Sequence[Any], session: Session) -> HandedOver:
        session.flush()
        show_rows(session)
        for run in runs:
            self.callbacks[run.id] = self._scheduler._schedule_dag_run(run, session=session)
        return HandedOver(ended=[run.id for run in runs if run.state in State.finished_dr_states])


class ScheduleGivenRuns(ScheduleTaskInstances):
    """Visits the runs it is given, whether or not another call would claim them.

    Airflow's method takes a run in any state. Queued ones are visited like running ones; those that have
    ended already, or turn out to have while they were queued, are left to Airflow's code.

    :param refresh_flag: corrects the limit flag of a dag whose run has ended.
    """

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        plans: Plans,
        refresh_flag: Callable[[str], object],
    ) -> None:
        super().__init__(
            scheduler,
            sessions,
            DirtyRuns(),
            plans,
            batch=0,
            wake=lambda _: None,
            ahead=None,
        )
        self._kept = HandoverToCaller(scheduler, sessions)
        self._handover = self._kept
        self._refresh_flag = refresh_flag
        self._states: dict[int, str] = {}

    async def examine(self, ids: Sequence[int]) -> HandoverToCaller:
        """Visit the runs *ids*; return the callbacks to run, and the errors, by run id.

        :raises LostRace: when others kept changing task instances meanwhile.
        """
        left, races = list(ids), 0
        while left:
            done = Pass(timezone.utcnow(), left)
            try:
                await self._visit_in_one_transaction(done, left)
            except LostRace as race:
                races += 1
                left = await self._after_race(race, left, races)
                continue
            for run in done.locked:
                await self._kept.examine(run)
            await self._follow_up(done)
            await self._refresh_flags(done)
            left = [run.id for run in done.unplanned]
        return self._kept

    async def _after_race(self, error: LostRace, ids: Sequence[int], races: int) -> list[int]:
        if races > MOST_RACES:
            raise error
        queued = {run for run in ids if self._states.get(run) == DagRunState.QUEUED}
        if error.table == DagRun.__tablename__ and queued:
            for run in sorted(queued):
                await self._kept.examine(run)
            return [run for run in ids if run not in queued]
        return list(ids)

    async def _claim(self, tx: Transaction, ids: Sequence[int]) -> list[ClaimedRun]:
        found = await load_runs(tx.session, ids)
        self._states = {run.id: state for run, state in found}
        return [run for run, state in found if state not in State.finished_dr_states]

    async def _refresh_flags(self, done: Pass) -> None:
        for run in done.ended:
            if run.run_type in COUNTED_RUN_TYPES:
                self._refresh_flag(run.dag_id)


class StartGivenRuns(StartDagRuns):
    """Starts runs with the locks of backfills that the caller obtains.

    :param lock_backfills: returns the backfills obtained, by id, for runs that may belong to some.
    """

    def __init__(
        self,
        sessions: Sessions,
        plans: Plans,
        window: int,
        lock_backfills: Callable[[Sequence[Any]], dict[int, Any]],
    ) -> None:
        super().__init__(sessions, DirtyRuns(), plans, window)
        self._lock_backfills = lock_backfills

    async def _obtain(self, tx: Transaction, claimed: Sequence[StartableRun]) -> set[int]:
        return set(self._lock_backfills(claimed))

    def _is_heard(self) -> bool:
        return True  # perhaps by a stand-in for the listener manager, which only the run itself asks


class CreateGivenRuns(CreateDagRuns):
    """Creates one run at most of each dag in a call, as Airflow's methods do."""

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions, plans: Plans, dags: int) -> None:
        super().__init__(scheduler, sessions, plans, dags, instances=2**31, turns=1)

    async def create_for(self, dag_models: Collection[DagModel]) -> int:
        """Create the runs that *dag_models* are due for; return how many."""
        open_ones = {model.dag_id for model in dag_models if not self._exceeds(model)}
        unplanned: set[UUID] = set()
        while open_ones:
            async with transaction(self._sessions) as tx:
                found = await load_dags(tx.session, sorted(open_ones))
                versions = {one.version for one in found.values() if one.version is not None}
                unplanned = {v for v in versions if self._is_unplanned(v)}
                if not unplanned:
                    return await self._create_for(tx, list(found.values()), set())
            await self._plans.fetch(self._sessions, unplanned)
        return 0

    def _is_unplanned(self, version: UUID) -> bool:
        return self._plans.get(version) is None and not self._plans.is_absent(version)

    def _exceeds(self, model: DagModel) -> bool:
        if model.exceeds_max_non_backfill:
            log.warning("Dag run cannot be created; max active runs exceeded. %s", model.dag_id)
        return bool(model.exceeds_max_non_backfill)


class _Unplanned(Exception):
    """The section has to be entered again: limits of dag versions were not at hand."""

    def __init__(self, versions: set[UUID]) -> None:
        self.versions = versions


class EnqueueGivenInstances(EnqueueTaskInstances):
    """The critical section in two halves: choose and queue, and hand over what the caller names."""

    async def choose(self, most: int) -> list[Any]:
        """Queue at most *most* task instances and return them, best first.

        :raises sqlalchemy.exc.OperationalError: when another scheduler is in the section, as Airflow's does.
        """
        while True:
            try:
                async with transaction(self._sessions) as tx:
                    section = await self._entered(tx, most)
                    found = await self._as_objects(tx, section)
            except _Unplanned as again:
                await self._plans.fetch(self._sessions, again.versions)
            else:
                _report(section)
                return found

    def _commit_later(self, row: QueuedRow, executor: Any) -> None:
        """Handing over is the other half."""

    async def _entered(self, tx: Transaction, most: int) -> Section:
        section = await self._work(tx, most)
        if section is None:
            taken = RuntimeError(ADVISORY_LOCK_TAKEN)
            raise OperationalError("Failed to acquire advisory lock", params=None, orig=taken)
        if section.unplanned:
            raise _Unplanned(section.unplanned)
        return section

    async def _as_objects(self, tx: Transaction, section: Section) -> list[Any]:
        order = {row.id: number for number, row in enumerate(section.queued)}
        if not order:
            return []
        query = select(TaskInstance).where(TaskInstance.id.in_(order))
        query = query.options(selectinload(TaskInstance.dag_model))
        rows = await tx.session.scalars(query, execution_options={"populate_existing": True})
        return sorted(rows.unique(), key=lambda ti: order[ti.id])

    async def hand_over(self, instances: Sequence[Any], executor: Any, session: Session) -> None:
        """Give *instances* to *executor* as workloads; those of ended runs lose their state instead."""
        now = timezone.utcnow()
        async with transaction(self._sessions) as tx:
            rows = await load_instances(tx.session, [ti.id for ti in instances])
            for row, state in (rows[ti.id] for ti in instances if ti.id in rows):
                if row.run_state in State.finished_dr_states:
                    await release_from(tx.session, [row.id], state, now)
                elif _has_version(row):
                    executor.queue_workload(self._workloads.make(row, executor), session=session)


def _has_version(row: QueuedRow) -> bool:
    if row.dag_version_id is None:
        log.warning(
            "TaskInstance %s does not have a dag_version_id set, cannot be enqueued. "
            "This would get unstuck and dag_version_id updated.",
            _described(row),
        )
    return row.dag_version_id is not None
