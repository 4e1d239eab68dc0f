"""Airflow's scheduler as tools and tests know it, on the redesigned routines.

:class:`SyncFacadeRunner` has the constructor and the private methods of Airflow's ``SchedulerJobRunner``. A
call runs *our* coroutine to its end over the caller's own blocking session: what was written for Airflow's
runner – tests above all – runs against the redesign. It is no scheduler to run in production.

How a call behaves, for those who hold rows, transactions or executors while they make it:

- **Transaction.** Each routine works in a savepoint of the caller's transaction. Commits happen where
  Airflow's methods make them, through the same guard: ``_create_dagruns_for_dags`` and
  ``_schedule_all_dag_runs`` at their end; ``_do_scheduling`` also after the start of runs and after the
  critical section, which it rolls back when another scheduler is in it. The other methods leave the
  transaction to the caller, uncommitted.
- **Objects.** What the caller has not flushed is flushed first; afterwards the objects it holds show what
  was written past them.
- **Effects.** Workloads reach executors, listeners and callback requests are called before the call
  returns, in order: Airflow's methods do so before their caller commits. Nobody beats an executor in
  between, so nothing is published too early.
- **Sizes.** A call does as much as Airflow's: ``max_tis_per_query``, the windows of ``DagRun`` and
  ``DagModel``, one new run for each dag. Within these, a run is visited to its fix point.
- **Teams.** With ``[core] multi_team`` Airflow's own code runs, as in the scheduler itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import cached_property, partial, wraps
from typing import Any, ParamSpec, TypeVar

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone
from airflow.jobs import scheduler_job_runner as upstream
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.backfill import Backfill
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.retries import retry_db_transaction
from airflow.utils.sqlalchemy import is_lock_not_available_error
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, make_transient

from async_scheduler.database.transaction import transaction
from async_scheduler.facade.driving import drive
from async_scheduler.facade.events import process_events
from async_scheduler.facade.loop import Turns
from async_scheduler.facade.methods import INHERITED, OURS
from async_scheduler.facade.plans import PlansInPlace
from async_scheduler.facade.sessions import CallerSessions
from async_scheduler.facade.stages import (
    CreateGivenRuns,
    EnqueueGivenInstances,
    HandoverToCaller,
    ScheduleGivenRuns,
    StartGivenRuns,
)
from async_scheduler.facade.twin import AirflowsTwin
from async_scheduler.facade.visible import show_rows
from async_scheduler.routines.redesigned.dirty import DirtyRuns
from async_scheduler.routines.redesigned.sweep import Sweep
from async_scheduler.store.limits import refresh_exceeding
from async_scheduler.store.queued import lock_backfills
from async_scheduler.store.running import claim_runs

P = ParamSpec("P")
T = TypeVar("T")

ALL_ROWS = 2**31 - 1


def _ours(method: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Make a method of Airflow's form out of a coroutine; with teams Airflow's own method runs."""

    @wraps(method)
    def driven(self: SyncFacadeRunner, *args: Any, **kwargs: Any) -> T:
        return drive(method(self, *args, **kwargs))

    @wraps(driven)
    def call(self: SyncFacadeRunner, *args: Any, **kwargs: Any) -> T:
        if self._multi_team:
            result: T = getattr(self._upstream, method.__name__)(*args, **kwargs)
            return result
        return driven(self, *args, **kwargs)

    return call


class SyncFacadeRunner(SchedulerJobRunner):  # type: ignore[misc]
    """Airflow's ``SchedulerJobRunner`` whose decisions are those of the redesigned routines."""

    OURS = OURS
    INHERITED = INHERITED

    @cached_property
    def _upstream(self) -> AirflowsTwin:
        """The same scheduler with Airflow's methods, for what the redesign hands over to them."""
        return AirflowsTwin(self)

    @cached_property
    def _plans(self) -> PlansInPlace:
        return PlansInPlace(self)

    async def _fresh_plans(self, sessions: CallerSessions) -> PlansInPlace:
        await self._plans.refresh(sessions)
        return self._plans

    async def _creating(self, sessions: CallerSessions) -> CreateGivenRuns:
        plans = await self._fresh_plans(sessions)
        return CreateGivenRuns(self._upstream, sessions, plans, DagModel.NUM_DAGS_PER_DAGRUN_QUERY)

    async def _enqueuing(self, sessions: CallerSessions) -> EnqueueGivenInstances:
        plans = await self._fresh_plans(sessions)
        return EnqueueGivenInstances(self._upstream, sessions, plans, batch=ALL_ROWS)

    @_ours
    async def _run_scheduler_loop(self) -> None:
        await Turns(self).run()

    @_ours
    async def _do_scheduling(self, session: Session) -> int:
        with upstream.prohibit_commit(session) as guard:
            if self._scheduler_use_job_schedule:
                self._create_dagruns_for_dags(guard, session)
            self._start_queued_dagruns(session)
            guard.commit()
            dag_runs = await self._runs_to_examine(session)
            self._stamp_team_names(dag_runs, session)
            callbacks = self._schedule_all_dag_runs(guard, dag_runs, session)
        for dag_run, callback in callbacks:
            if dag := self.scheduler_dag_bag.get_dag_for_run(dag_run=dag_run, session=session):
                self._send_dag_callbacks_to_processor(dag, callback)
            else:
                self.log.error("DAG '%s' not found in serialized_dag table", dag_run.dag_id)
        with upstream.prohibit_commit(session) as guard:
            session.expunge_all()
            queued = self._try_critical_section(session)
            if queued is None:
                session.rollback()
                return 0
            guard.commit()
        return queued

    async def _runs_to_examine(self, session: Session) -> list[DagRun]:
        """Claim the runs that a sweep finds: all of them, as nothing is known from an earlier call."""
        sessions, dirty = CallerSessions(session), DirtyRuns()
        await Sweep(sessions, dirty, await self._fresh_plans(sessions), everything_after=0.0).run_once()
        async with transaction(sessions) as tx:
            claimed = await claim_runs(tx.session, dirty.take(ALL_ROWS, timezone.utcnow()))
            query = select(DagRun).where(DagRun.id.in_([run.id for run in claimed])).order_by(DagRun.id)
            return list((await tx.session.scalars(query)).unique()) if claimed else []

    def _try_critical_section(self, session: Session) -> int | None:
        """Return how many task instances were queued, None if another scheduler is in the section."""
        if sum(executor.slots_available for executor in self.executors) <= 0:
            self.log.debug("All executors are full, skipping critical section")
            return 0
        timer = stats.timer("scheduler.critical_section_duration")
        timer.start()
        try:
            queued = self._critical_section_enqueue_task_instances(session=session)
        except OperationalError as error:
            timer.stop(send=False)
            if not is_lock_not_available_error(error=error):
                raise
            self.log.debug("Critical section lock held by another Scheduler")
            stats.incr("scheduler.critical_section_busy")
            return None
        timer.stop(send=True)
        return queued

    @retry_db_transaction  # type: ignore[untyped-decorator]
    @_ours
    async def _create_dagruns_for_dags(self, guard: Any, session: Session) -> None:
        await (await self._creating(CallerSessions(session))).run_once()
        guard.commit()

    @_ours
    async def _create_dag_runs(self, dag_models: Collection[DagModel], session: Session) -> None:
        await (await self._creating(CallerSessions(session))).create_for(dag_models)
        show_rows(session, dag_models)

    @_ours
    async def _set_exceeds_max_active_runs(
        self, *, dag_model: DagModel, active_non_backfill_runs: int | None = None, session: Session
    ) -> None:
        if active_non_backfill_runs is not None:
            dag_model.exceeds_max_non_backfill = active_non_backfill_runs >= (dag_model.max_active_runs or 0)
            return
        async with transaction(CallerSessions(session)) as tx:
            await refresh_exceeding(tx.session, [dag_model.dag_id])
        show_rows(session, [dag_model])

    @_ours
    async def _lock_backfills(self, dag_runs: Collection[DagRun], session: Session) -> dict[int, Backfill]:
        wanted = {run.backfill_id for run in dag_runs if run.backfill_id is not None}
        if not wanted:
            return {}
        async with transaction(CallerSessions(session)) as tx:
            obtained = await lock_backfills(tx.session, wanted)
            found = await tx.session.scalars(select(Backfill).where(Backfill.id.in_(obtained)))
        return {backfill.id: backfill for backfill in found}

    @_ours
    async def _start_queued_dagruns(self, session: Session) -> None:
        sessions = CallerSessions(session)
        lock = partial(self._lock_backfills, session=session)
        plans = await self._fresh_plans(sessions)
        await StartGivenRuns(sessions, plans, DagRun.DEFAULT_DAGRUNS_TO_EXAMINE, lock).run_once()

    async def _examined(self, dag_runs: Collection[DagRun], session: Session) -> HandoverToCaller:
        session.flush()  # a run that is new to it has no id yet
        sessions = CallerSessions(session)
        plans = await self._fresh_plans(sessions)
        stage = ScheduleGivenRuns(self._upstream, sessions, plans, partial(self._refresh_flag, session))
        seen = await stage.examine([run.id for run in dag_runs])
        show_rows(session, dag_runs)
        for run in dag_runs:
            run.dag = self.scheduler_dag_bag.get_dag_for_run(dag_run=run, session=session)
        return seen

    def _refresh_flag(self, session: Session, dag_id: str) -> None:
        if model := session.get(DagModel, dag_id):
            self._set_exceeds_max_active_runs(dag_model=model, session=session)

    @_ours
    async def _schedule_all_dag_runs(
        self, guard: Any, dag_runs: Iterable[DagRun], session: Session
    ) -> list[tuple[DagRun, Any]]:
        runs = list(dag_runs)
        if self._is_replaced("_schedule_dag_run"):
            callbacks, errors = self._schedule_one_by_one(runs, session)
        else:
            seen = await self._examined(runs, session)
            callbacks, errors = seen.callbacks, seen.errors
        for run in runs:
            if error := errors.get(run.id):
                self.log.error("Error scheduling DAG run %s of %s", run.run_id, run.dag_id, exc_info=error)
        guard.commit()
        return [(run, callbacks.get(run.id)) for run in runs if run.id not in errors]

    def _is_replaced(self, name: str) -> bool:
        """Whether a test or a subclass has put something in the place of our method *name*."""
        return name in self.__dict__ or getattr(type(self), name) is not _DEFINED[name]

    def _schedule_one_by_one(
        self, runs: Iterable[DagRun], session: Session
    ) -> tuple[dict[int, Any], dict[int, Exception]]:
        callbacks: dict[int, Any] = {}
        errors: dict[int, Exception] = {}
        for run in runs:
            try:
                callbacks[run.id] = self._schedule_dag_run(run, session=session)
            except DBAPIError:
                raise
            except Exception as error:  # as in Airflow's method: one run does not hold up the others
                errors[run.id] = error
        return callbacks, errors

    @_ours
    async def _schedule_dag_run(self, dag_run: DagRun, session: Session) -> Any:
        seen = await self._examined([dag_run], session)
        if error := seen.errors.get(dag_run.id):
            raise error
        return seen.callbacks.get(dag_run.id)

    @_ours
    async def _executable_task_instances_to_queued(self, max_tis: int, session: Session) -> list[Any]:
        found = await (await self._enqueuing(CallerSessions(session))).choose(max_tis)
        for ti in found:
            make_transient(ti)
        return found

    @_ours
    async def _enqueue_task_instances_with_queued_state(
        self, task_instances: list[Any], executor: Any, session: Session
    ) -> None:
        enqueuing = await self._enqueuing(CallerSessions(session))
        await enqueuing.hand_over(task_instances, executor, session)

    @_ours
    async def _critical_section_enqueue_task_instances(self, session: Session) -> int:
        most = self._parallelism - sum(executor.slots_occupied for executor in self.executors)
        if self.job.max_tis_per_query:
            most = min(self.job.max_tis_per_query, most)
        if most <= 0:
            return 0
        queued = self._executable_task_instances_to_queued(most, session=session)
        for executor, instances in self._executor_to_workloads(queued, session).items():
            self._enqueue_task_instances_with_queued_state(instances, executor, session=session)
        return len(queued)

    @_ours
    async def _process_executor_events(self, executor: Any, session: Session) -> int:
        return await process_events(self._upstream, CallerSessions(session), executor)


_DEFINED = {name: getattr(SyncFacadeRunner, name) for name in OURS}
# Airflow builds the metric of schedulers found dead, "schedulerjobrunner_end", from the runner's class.
SyncFacadeRunner.__name__ = SchedulerJobRunner.__name__
