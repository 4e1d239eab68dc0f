"""The two schedulers under comparison, driven phase by phase through the same few calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow._shared.observability.metrics import stats
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.executors.base_executor import BaseExecutor
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import is_lock_not_available_error, prohibit_commit
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from async_scheduler.compat import SyncFacadeRunner
from async_scheduler.routines.timers import TIMERS
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly

REDESIGNED = replace(FAST, algorithm="redesigned")
MOST_PASSES = 40
Events = dict[Any, tuple[Any, Any]]


class Scripted(BaseExecutor):  # type: ignore[misc]
    """An executor that runs nothing: it keeps what it is given and answers as the story says."""

    adopts = False
    revokes = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.given: list[Any] = []
        self.offered: list[str] = []
        self.revoked: list[str] = []

    def start(self) -> None:
        """Nothing to start."""

    def queue_workload(self, workload: Any, session: Any = None) -> None:
        """Keep it."""
        self.given.append(workload)
        super().queue_workload(workload, session)

    def heartbeat(self) -> None:
        """Nothing starts."""

    def try_adopt_task_instances(self, tis: Sequence[Any]) -> Sequence[Any]:
        """Take all or none."""
        self.offered += sorted(f"{ti.run_id}/{ti.task_id}/{ti.map_index}" for ti in tis)
        return [] if self.adopts else tis

    def revoke_task(self, *, ti: Any) -> None:
        """Forget the task, or say that this executor cannot."""
        if not self.revokes:
            raise NotImplementedError
        self.revoked.append(ti.task_id)
        self.queued_tasks.pop(ti.key, None)
        self.running.discard(ti.key)

    def end(self) -> None:
        """Nothing to wait for."""


class Arm(Protocol):
    """One scheduler. Each call takes its phase to rest unless it says otherwise."""

    runner: Any

    def create(self) -> None:
        """Create the runs that are due."""

    def start(self) -> None:
        """Start the runs that may start."""

    def schedule(self) -> None:
        """Examine all running runs until nothing changes."""

    def enqueue(self) -> None:
        """Queue what fits."""

    def report(self, executor: Scripted, events: Events) -> None:
        """Let *executor* report these events, and process them."""

    def beat(self, executor: Scripted) -> None:
        """Send *executor* its heartbeat and process what it brings."""

    def listened(self) -> None:
        """Wait until listeners have been called."""

    def timer(self, name: str) -> None:
        """Run one of the interval timers once."""

    def step(self, name: str) -> None:
        """Run ``deadlines``, ``executor_callbacks`` or ``connection_tests`` once."""


class Stock:
    """Airflow's own scheduler, called as its loop calls itself."""

    def __init__(self, executors: list[Scripted], runner: Any = SchedulerJobRunner) -> None:
        self.runner = runner(Job(), executors=executors)
        with create_session() as session:
            self.runner.job.prepare_for_execution(session=session)
        for executor in executors:
            executor.job_id = self.runner.job.id
            executor.callback_sink = DatabaseCallbackSink()

    def create(self) -> None:
        for _ in range(MOST_PASSES):
            with create_session() as session:
                before = _count(session, DagRun)
                dates = _due_dates(session)
                with prohibit_commit(session) as guard:
                    self.runner._create_dagruns_for_dags(guard, session)
                if before == _count(session, DagRun) and dates == _due_dates(session):
                    return

    def start(self) -> None:
        before: Any = None
        while before != (before := _run_states()):
            with create_session() as session, prohibit_commit(session) as guard:
                self.runner._start_queued_dagruns(session)
                guard.commit()

    def schedule(self) -> None:
        before: Any = None
        for _ in range(MOST_PASSES):
            if before == (before := _standing()):
                return
            self._examine()
        raise AssertionError("the stock scheduler does not come to rest")

    def _examine(self) -> None:
        runner = self.runner
        with create_session() as session:
            with prohibit_commit(session) as guard:
                runs = list(DagRun.get_running_dag_runs_to_examine(session=session))
                runner._stamp_team_names(runs, session)
                callbacks = runner._schedule_all_dag_runs(guard, runs, session)
            for run, callback in callbacks:
                dag = runner.scheduler_dag_bag.get_dag_for_run(dag_run=run, session=session)
                if dag:
                    runner._send_dag_callbacks_to_processor(dag, callback)

    def enqueue(self) -> None:
        for _ in range(MOST_PASSES):
            if not self._enter_section():
                return

    def _enter_section(self) -> int:
        """The last part of ``_do_scheduling``."""
        with create_session() as session, prohibit_commit(session) as guard:
            if sum(executor.slots_available for executor in self.runner.executors) <= 0:
                return 0
            timer = stats.timer("scheduler.critical_section_duration")
            timer.start()
            try:
                queued = int(self.runner._critical_section_enqueue_task_instances(session))
            except OperationalError as error:
                timer.stop(send=False)
                if not is_lock_not_available_error(error=error):
                    raise
                stats.incr("scheduler.critical_section_busy")
                session.rollback()
                return 0
            timer.stop(send=True)
            guard.commit()
            return queued

    def report(self, executor: Scripted, events: Events) -> None:
        executor.event_buffer.update(events)
        with create_session() as session:
            self.runner._process_executor_events(executor=executor, session=session)

    def beat(self, executor: Scripted) -> None:
        executor.heartbeat()
        self.report(executor, {})

    def listened(self) -> None:
        """They have: Airflow calls them where something happens."""

    def timer(self, name: str) -> None:
        method = next(timer.mirrors for timer in TIMERS if timer.name == name)
        getattr(self.runner, method)()

    def step(self, name: str) -> None:
        from async_scheduler.routines.deadlines import _handle_misses

        with create_session() as session:
            if name == "deadlines":
                _handle_misses(session)  # the loop's own lines are not a function that could be called
            elif name == "executor_callbacks":
                self.runner._enqueue_executor_callbacks(session)
            else:
                self.runner._enqueue_connection_tests(session=session)


class Redesigned:
    """This project's scheduler with the redesigned stages, over asyncpg as in production."""

    def __init__(self, assembly: Assembly, run: Callable[[Any], Any]) -> None:
        self.assembly = assembly
        self.runner: Any = assembly._scheduler
        self._run = run

    def _pass(self, name: str) -> Any:
        return self._run(self.assembly.supervisor.drivers[name].routine.run_once())

    def create(self) -> None:
        while self._pass("create").more:
            pass

    def start(self) -> None:
        while (outcome := self._pass("start")).more or outcome.counts.get("started"):
            pass

    def schedule(self) -> None:
        new = self.assembly.redesigned
        if new is None:
            self._repeat("schedule")
            return
        self._pass("sweep")
        with create_session() as session:
            new.dirty.mark(session.scalars(select(DagRun.id).where(DagRun.state == "running")).all())
        for _ in range(2 * MOST_PASSES):
            if not len(new.dirty):
                return
            self._pass("schedule")
        raise AssertionError("the redesigned scheduler does not come to rest")

    def _repeat(self, name: str) -> None:
        """Let a stage of Airflow's own pass until nothing changes, where the redesign is not in use."""
        before: Any = None
        while before != (before := _standing()):
            self._pass(name)

    def enqueue(self) -> None:
        self._read_dags()
        for _ in range(MOST_PASSES):
            outcome = self._pass("enqueue")
            for port in self.assembly.ports:
                self._run(port._thread.call(port._hand_over))
            if not (outcome.more or outcome.counts.get("queued")):
                return

    def _read_dags(self) -> None:
        """Have all dags at hand, as when the schedule stage has made the instances scheduled."""
        if (new := self.assembly.redesigned) is None:
            return
        with create_session() as session:
            versions = session.scalars(select(DagVersion.id)).all()
        self._run(new.plans.fetch(self.assembly._sessions, versions))

    def report(self, executor: Scripted, events: Events) -> None:
        port = next(port for port in self.assembly.ports if port.executor is executor)
        port.events.update(events)
        routine: Any = self.assembly.supervisor.drivers[f"executor:{port.name}"].routine
        self._run(routine.process_events())

    def beat(self, executor: Scripted) -> None:
        self._pass(f"executor:{next(port.name for port in self.assembly.ports if port.executor is executor)}")

    def listened(self) -> None:
        self._run(self.assembly.listeners.drain())

    def timer(self, name: str) -> None:
        self._pass(name)
        for port in self.assembly.ports:
            self._run(port._thread.call(port._hand_over))

    step = timer


@contextmanager
def stock(executors: list[Scripted]) -> Iterator[Arm]:
    """Yield the stock scheduler."""
    yield Stock(executors)


@contextmanager
def facade(executors: list[Scripted]) -> Iterator[Arm]:
    """Yield the redesigned routines behind the methods of Airflow's runner, over its blocking sessions."""
    yield Stock(executors, SyncFacadeRunner)


@contextmanager
def redesigned(executors: list[Scripted]) -> Iterator[Arm]:
    """Yield the redesigned scheduler, put together with nothing running."""
    with asyncio.Runner() as loop:
        context = assembled(*executors, settings=REDESIGNED)
        assembly = loop.run(context.__aenter__())
        try:
            yield Redesigned(assembly, loop.run)
        finally:
            loop.run(context.__aexit__(None, None, None))


MakeArm = Callable[[list[Scripted]], AbstractContextManager[Arm]]


def _count(session: Any, model: Any) -> int:
    return int(session.query(model).count())


def _due_dates(session: Any) -> list[Any]:
    from airflow.models.dag import DagModel

    session.expire_all()
    return list(session.execute(select(DagModel.dag_id, DagModel.next_dagrun).order_by(DagModel.dag_id)))


def _run_states() -> list[Any]:
    with create_session() as session:
        return list(session.execute(select(DagRun.id, DagRun.state).order_by(DagRun.id)))


def _standing() -> list[Any]:
    """Where runs and task instances are, to see whether a pass changed anything."""
    c = TaskInstance.__table__.c
    with create_session() as session:
        instances = session.execute(select(c.id, c.map_index, c.state, c.try_number).order_by(c.id))
        return [*instances, *_run_states()]
