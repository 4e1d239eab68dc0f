"""Puts one scheduler together from its parts: which routine runs when, who wakes whom, on which session.

This is the composition root, the only module that knows all the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from airflow import settings as airflow_settings
from airflow._shared.timezones import timezone
from airflow.configuration import conf

from async_scheduler.bridge.executor_ends import wait_for_ends
from async_scheduler.bridge.executor_port import ExecutorPort
from async_scheduler.bridge.executor_view import ExecutorView
from async_scheduler.bridge.listeners import ListenerThread, listeners_after_commit
from async_scheduler.bridge.threads import PurposeThread
from async_scheduler.database.address import async_address
from async_scheduler.database.capacity import Blocking, describe
from async_scheduler.database.engine import create_engine
from async_scheduler.database.faults import classify
from async_scheduler.database.fence import Fence
from async_scheduler.database.joined import nested_sessions_joined, retries_left_to_the_driver
from async_scheduler.database.kept import KeptSession
from async_scheduler.database.sessions import LeavingTurns, PooledSessions, SharedSession
from async_scheduler.driver.rounds import Rounds
from async_scheduler.driver.routine import Routine, Schedule
from async_scheduler.driver.runner import Policy, RoutineDriver
from async_scheduler.driver.supervisor import Supervisor
from async_scheduler.errors import AsyncSchedulerError, ExecutorUnresponsive
from async_scheduler.measure.attribution import DeadlockVictim
from async_scheduler.metrics import StatsObserver, report_pool_wait, report_round
from async_scheduler.routines.deadlines import (
    EnqueueConnectionTests,
    EnqueueExecutorCallbacks,
    HandleMissedDeadlines,
)
from async_scheduler.routines.executor import RunExecutor
from async_scheduler.routines.heartbeat import SendHeartbeat
from async_scheduler.routines.redesigned.stages import RedesignedStages
from async_scheduler.routines.timers import TIMERS, LoopTimer, ThreadTimer, Timer, body_of, is_needed
from async_scheduler.routines.upstream.create import CreateDagRuns
from async_scheduler.routines.upstream.enqueue import EnqueueTaskInstances
from async_scheduler.routines.upstream.schedule import ScheduleTaskInstances
from async_scheduler.routines.upstream.start import StartDagRuns
from async_scheduler.secrets.scheduler import SchedulerSecrets
from async_scheduler.store.dialect import takes_row_locks
from async_scheduler.tracing import Tracing

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.engine import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.database.transaction import Sessions
    from async_scheduler.driver.routine import Outcome
    from async_scheduler.settings import Settings

log = logging.getLogger(__name__)

UNPROMPTED = 10.0
"""Seconds after which a stage looks for work although neither the probe nor another stage has woken it."""
RUNS_EXAMINED_AT_ONCE = 2
"""How many runs Airflow's code examines in a transaction on SQLite, which keeps all others from writing."""
HEARTBEAT_CHECK = 1.0
"""Seconds between two looks at whether the job's heartbeat is due, as often as an idle sync loop looks."""


class Assembly:
    """The parts of one running scheduler. Made on the event loop, closed by :meth:`close`."""

    def __init__(self, scheduler: SchedulerJobRunner, settings: Settings) -> None:
        self._scheduler = scheduler
        self._settings = settings
        self._in_turns = settings.mode == "sequential"
        self._idle = float(scheduler._scheduler_idle_sleep_time)
        self.fence = self._make_fence()
        self.listeners = ListenerThread()
        self._threads: list[PurposeThread] = []
        self.ports = [self._port(executor) for executor in scheduler.executors]
        self.views = [ExecutorView(port, settings.executor_call_timeout) for port in self.ports]
        # Airflow's code must see the views from the first pass on, and when timers are chosen.
        scheduler.executors, scheduler.executor = self.views, self.views[0]
        timers = [timer for timer in TIMERS if is_needed(timer, scheduler)]
        self.engine = self._make_engine(self._pool_size(timers))
        self.tracing = Tracing(settings, self._engines(), self._monitor_url())
        self._sessions = self._make_sessions()
        self._kept: list[KeptSession] = []
        self.secrets = SchedulerSecrets(settings)
        self.redesigned = self._make_redesigned()
        self._probing = self.redesigned is not None and not self._in_turns
        self._rest = self._seconds_between_unprompted_passes()
        self._executor_routines = [
            self._executor_routine(port, view) for port, view in zip(self.ports, self.views, strict=True)
        ]
        drivers = self._drivers(timers)
        self._rounds = Rounds(
            (driver.name for driver in drivers if driver.schedule.core),
            limit=scheduler.num_runs,
            only_idle=scheduler.only_idle,
            on_round=self._on_round,
            on_limit=self._on_limit,
            first=[timer.name for timer in timers if timer.at_start],
        )
        self.supervisor = Supervisor(drivers, settings.shutdown_grace)

    def _make_fence(self) -> Fence:
        job = self._scheduler.job
        age = (timezone.utcnow() - job.latest_heartbeat).total_seconds()
        return Fence(job.id, conf.getfloat("scheduler", "scheduler_health_check_threshold"), age)

    def _port(self, executor: BaseExecutor) -> ExecutorPort:
        port: ExecutorPort
        port = ExecutorPort(
            executor, wake=lambda: self.supervisor.wake([executor_routine_name(port)]), fence=self.fence
        )
        return port

    def _pool_size(self, timers: list[Timer]) -> int:
        """One connection for each routine that can hold one at the same time.

        Without row locks only one may: nothing but taking turns keeps routines from each other's rows.
        """
        if self._settings.mode != "concurrent" or not takes_row_locks(airflow_settings.engine.dialect):
            return 1
        if self._settings.pool_size:
            return self._settings.pool_size
        stages, per_loop, executors = 5, 3, len(self.ports)
        if self._settings.algorithm == "redesigned":
            stages += self._settings.lanes  # the probe, and the lanes after the first
        if self._keeps_connections:  # beside those for transactions
            stages += self._settings.lanes
            executors *= 2
        return stages + per_loop + executors + sum(not timer.thread for timer in timers)

    @property
    def _keeps_connections(self) -> bool:
        """Whether routines keep connections that commit by themselves: where the pool is made for it."""
        settings, dialect = self._settings, airflow_settings.engine.dialect
        redesigned = settings.algorithm == "redesigned" and not self._scheduler._multi_team
        to_spare = settings.mode == "concurrent" and not settings.pool_size and settings.pgbouncer != "true"
        return bool(redesigned and to_spare and dialect.name == "postgresql")

    def _make_engine(self, pool_size: int) -> AsyncEngine:
        log.info("%s", describe(pool_size, Blocking.from_airflow()))
        return create_engine(
            pool_size, self._settings.pool_timeout, pgbouncer=self._settings.pgbouncer == "true"
        )

    def _monitor_url(self) -> URL:
        return async_address().monitor_url(pgbouncer=self._settings.pgbouncer == "true")

    def _engines(self) -> list[Engine]:
        """Return the async engine, and Airflow's blocking one that heartbeat and timers on threads use."""
        blocking = airflow_settings.engine
        return [self.engine.sync_engine, *([blocking] if blocking is not None else [])]

    def _make_sessions(self) -> Sessions:
        kind = SharedSession if self._settings.mode == "shared_session" else PooledSessions
        if not self._is_sqlite():
            return kind(self.engine, report_pool_wait, self.fence)
        waited_before = kind(self.engine, lambda _: None, self.fence)
        return LeavingTurns(waited_before, report_pool_wait, self._settings.pool_timeout)

    def _make_looks(self) -> Sessions:
        """Return sessions for one routine that only reads: one that it keeps, where that is possible."""
        return self._make_kept() or self._sessions

    def _make_kept(self) -> KeptSession | None:
        """Return a session for one routine that commits each statement by itself, where that is possible."""
        if not self._keeps_connections:
            return None
        kept = KeptSession(self.engine, report_pool_wait)
        self._kept.append(kept)
        return kept

    def _is_sqlite(self) -> bool:
        return bool(self.engine.dialect.name == "sqlite")

    def _make_redesigned(self) -> RedesignedStages | None:
        """Return the redesigned stages where they are wanted; teams are left to Airflow's own code."""
        if self._settings.algorithm != "redesigned":
            return None
        if self._scheduler._multi_team:
            log.warning(
                "[core] multi_team is on: Airflow's own functions decide, as with algorithm = upstream"
            )
            return None
        return RedesignedStages(
            self._scheduler,
            self._sessions,
            self._make_looks,
            self._make_kept,
            self._settings,
            self.fence,
            wake=lambda names: self.supervisor.wake(names),
            probed=not self._in_turns,
        )

    def _seconds_between_unprompted_passes(self) -> float:
        """Stages look for work by themselves as often as the sync loop, unless the probe does it for them.

        Where a number of rounds was asked for, a round takes as long as the slowest stage's interval.
        """
        return max(UNPROMPTED, self._idle) if self._probing and self._scheduler.num_runs <= 0 else self._idle

    def _executor_routine(self, port: ExecutorPort, view: ExecutorView) -> RunExecutor:
        if self.redesigned is not None:
            return self.redesigned.executor(executor_routine_name(port), port, view)
        return RunExecutor(
            executor_routine_name(port),
            self._scheduler,
            self._sessions,
            port,
            view,
            self._settings.executor_poll_interval,
            self._settings.routine_timeout,
        )

    def _drivers(self, timers: list[Timer]) -> list[RoutineDriver]:
        """Return the drivers in the order of the sync loop, which sequential mode follows."""
        scheduler, sessions, idle, rest = self._scheduler, self._sessions, self._idle, self._rest
        executors = tuple(routine.name for routine in self._executor_routines)
        drivers = [
            *self._deciding_drivers(executors),
            *(
                # No limit for the pass: it waits for the executor, which delays only itself.
                self._driver(routine, Schedule(idle, core=True, wakes=("schedule", "enqueue")), None)
                for routine in self._executor_routines
            ),
            self._driver(
                HandleMissedDeadlines(scheduler, sessions), Schedule(rest, wakes=("executor_callbacks",))
            ),
            self._driver(EnqueueExecutorCallbacks(scheduler, sessions), Schedule(rest)),
            self._driver(EnqueueConnectionTests(scheduler, sessions), Schedule(rest)),
            self._heartbeat_driver(),
            *(self._timer_driver(timer) for timer in timers),
        ]
        if scheduler._scheduler_use_job_schedule:
            poll = self._settings.executor_poll_interval
            create: Routine = CreateDagRuns(scheduler, sessions, poll, self.secrets.for_new_runs)
            if self.redesigned is not None:
                create = self.redesigned.create(self.secrets.for_new_runs)
            drivers.insert(0, self._driver(create, Schedule(rest, core=True, wakes=("start",))))
        return drivers

    def _deciding_drivers(self, executors: tuple[str, ...]) -> list[RoutineDriver]:
        """Return start, schedule and enqueue, of the algorithm in use."""
        scheduler, sessions, rest = self._scheduler, self._sessions, self._rest
        start = Schedule(rest, core=True, wakes=("schedule",))
        schedule = Schedule(self._idle, core=True, woken_as="schedule")
        if (new := self.redesigned) is not None:
            probe = [self._driver(new.probe, Schedule(self._settings.probe_interval))]
            first_lane, *other_lanes = new.lanes
            return [
                *(probe if self._probing else []),
                self._driver(new.start, start),
                self._driver(new.sweep, self._sweep_schedule()),
                self._driver(first_lane, schedule),
                # What comes due while the first is at work, it has others woken for.
                *(self._driver(lane, replace(schedule, interval=rest)) for lane in other_lanes),
                # A port asks for a beat itself as soon as it is given something.
                self._driver(new.enqueue, Schedule(rest, core=True)),
            ]
        poll = self._settings.executor_poll_interval
        at_once = RUNS_EXAMINED_AT_ONCE if self._is_sqlite() else None
        return [
            self._driver(StartDagRuns(scheduler, sessions), start),
            self._driver(ScheduleTaskInstances(scheduler, sessions, at_once), schedule),
            self._driver(
                EnqueueTaskInstances(scheduler, sessions, poll), Schedule(rest, core=True, wakes=executors)
            ),
        ]

    def _sweep_schedule(self) -> Schedule:
        """Return when the sweep runs: where rounds are counted, each looks for what others changed."""
        interval, counted = self._settings.sweep_interval, self._scheduler.num_runs > 0
        return Schedule(min(interval, self._idle) if counted else interval, core=counted, wakes=("schedule",))

    def _driver(
        self, routine: Routine, schedule: Schedule, timeout: float | Literal["as set"] | None = "as set"
    ) -> RoutineDriver:
        if schedule.core and self._scheduler.num_runs > 0:
            schedule = replace(schedule, longest=self._idle)  # a round waits for each of them
        return RoutineDriver(
            routine,
            schedule,
            Policy(
                timeout=self._settings.routine_timeout if timeout == "as set" else timeout,
                retry_max_backoff=self._settings.retry_max_backoff,
                retry_give_up_after=self._settings.retry_give_up_after,
                fault=_passing_fault,
            ),
            StatsObserver(),
            wake_followers=lambda names: self.supervisor.wake(names),
            on_pass=lambda name, outcome: self._on_pass(name, outcome),
        )

    def _heartbeat_driver(self) -> RoutineDriver:
        return self._driver(
            SendHeartbeat(self._scheduler, self._thread("heartbeat"), self.fence), Schedule(HEARTBEAT_CHECK)
        )

    def _timer_driver(self, timer: Timer) -> RoutineDriver:
        body = body_of(timer, self._scheduler)
        if timer.thread:
            guarded = self.fence.around(body)
            return self._driver(ThreadTimer(timer, guarded, self._thread(timer.name)), timer.schedule())
        return self._driver(LoopTimer(timer, body, self._sessions), timer.schedule())

    def _thread(self, name: str) -> PurposeThread:
        thread = PurposeThread(name)
        self._threads.append(thread)
        return thread

    def _on_pass(self, name: str, outcome: Outcome) -> None:
        self._rounds.passed(name, outcome)

    def _on_round(self, seconds: float) -> None:
        # As the sync loop does at the start of each pass: a change of a bundle's team is seen soon.
        self._scheduler._dag_id_to_team_name = {}
        report_round(seconds)

    def _on_limit(self) -> None:
        log.info(
            "Exiting scheduler loop as requested number of runs (%d) has been reached (%d idle, %d total)",
            self._scheduler.num_runs,
            self._rounds.idle_in_a_row,
            self._rounds.total,
        )
        self.supervisor.stop()

    @contextmanager
    def upstream_hooks(self) -> Iterator[None]:
        """While the block runs, what Airflow's code does inside a routine's transaction stays inside it.

        Nested sessions join it, listeners and hand-overs wait for its commit, retries are the driver's.
        """
        with (
            nested_sessions_joined(),
            retries_left_to_the_driver(),
            listeners_after_commit(self.listeners),
        ):
            yield

    async def end_executors(self) -> None:
        """End all executors at the same time, then process the events they leave.

        The job keeps its heartbeat meanwhile: an executor that waits for long tasks must not look dead, or
        another scheduler would adopt those tasks.
        """
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat_on(), name="heartbeat")
            ending = {
                group.create_task(self._end_executor(port, routine), name=f"end {port.name}"): port
                for port, routine in zip(self.ports, self._executor_routines, strict=True)
            }
            await wait_for_ends(ending)
            beating.cancel()

    async def _beat_on(self) -> None:
        if self.fence.lost:
            return
        # That the heartbeat fails must not keep executors from ending.
        try:
            await self._heartbeat_driver().run()
        except AsyncSchedulerError as error:
            log.error("No more heartbeats while the executors end: %s", error)

    async def _end_executor(self, port: ExecutorPort, routine: RunExecutor) -> None:
        # An executor is a plugin: that its end() fails must not keep the others from ending.
        try:
            # See whether it may still be given what waits for it; if unknown, it gets nothing.
            await self._before_its_end(routine.confirm(), f"Executor {routine.name} gets no more work")
            if not self.fence.lost:  # now, too: its end may take as long as its tasks do, or fail
                left = f"Events of {routine.name} are left for its end"
                await self._before_its_end(routine.process_events(), left)
            await port.end(self._settings.shutdown_grace)
            if not self.fence.lost:
                await routine.process_events()
        except ExecutorUnresponsive as error:
            log.error("%s; ending without it", error)
        except Exception:
            log.exception("Exception when executing Executor.end on %s", port.executor)

    async def _before_its_end(self, work: Coroutine[Any, Any, object], otherwise: str) -> None:
        """Do *work* within the grace; where that fails, say what follows: the executor ends all the same."""
        try:
            async with asyncio.timeout(self._settings.shutdown_grace):
                await work
        except Exception as error:
            if not self.fence.lost:
                log.warning("%s: %s", otherwise, type(error).__name__)

    async def _drain_threads(self) -> None:
        """Let listeners and timers on threads end what they have begun, within the grace."""
        try:
            async with asyncio.timeout(self._settings.shutdown_grace):
                await self.listeners.drain()
                for thread in self._threads:
                    await thread.drain()
        except TimeoutError:
            log.error("Not all threads came to an end within %g s", self._settings.shutdown_grace)

    async def close(self) -> None:
        """Let go of connections and threads."""
        await self._drain_threads()
        self.listeners.close()
        for port in self.ports:
            port.close()
        for thread in self._threads:
            thread.close()
        await self.secrets.aclose()
        for kept in self._kept:
            await kept.aclose()
        await self.engine.dispose()


def executor_routine_name(port: ExecutorPort) -> str:
    """Return the name of the routine that runs the executor behind *port*."""
    return f"executor:{port.name}"


def _passing_fault(error: BaseException) -> str | None:
    if isinstance(error, DeadlockVictim):
        return "deadlock"
    fault = classify(error)
    return fault.value if fault.passing else None
