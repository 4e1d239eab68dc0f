"""The sync loop's turns, taken by the project's own driver over blocking sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow._shared.observability.metrics import stats
from airflow.configuration import conf
from airflow.jobs import scheduler_job_runner as upstream
from airflow.utils.session import create_session

from async_scheduler.driver.rounds import Rounds
from async_scheduler.driver.routine import Outcome, Schedule
from async_scheduler.driver.runner import Policy, RoutineDriver
from async_scheduler.driver.supervisor import Supervisor
from async_scheduler.errors import RoutineFailed
from async_scheduler.facade.sessions import CallerSessions
from async_scheduler.metrics import StatsObserver, report_round
from async_scheduler.routines.deadlines import HandleMissedDeadlines
from async_scheduler.routines.timers import TIMERS, body_of, is_needed

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.driver.routine import Routine

GRACE = 10.0
"""Seconds; never waited for: a turn ends before anything else gets a word in."""
NO_RETRIES = Policy(timeout=None, retry_max_backoff=0.0, retry_give_up_after=0.0, fault=lambda _: None)
"""An error ends the loop, as it ends Airflow's: what can be retried, its methods retry themselves."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a turn: a blocking call, and how much it found to do."""

    name: str
    body: Callable[[], int | None]

    async def run_once(self) -> Outcome:
        """Run the stage."""
        return Outcome(progressed=bool(self.body()))


class DeadlineStep:
    """The routine for missed deadlines on a session of its own, then what waits for executors."""

    name = "deadlines"

    def __init__(self, scheduler: SchedulerJobRunner) -> None:
        self._scheduler = scheduler

    async def run_once(self) -> Outcome:
        """Handle missed deadlines; hand over pending callbacks and connection tests."""
        with create_session() as session:
            await HandleMissedDeadlines(self._scheduler, CallerSessions(session)).run_once()
            self._scheduler._enqueue_executor_callbacks(session)
            self._scheduler._enqueue_connection_tests(session=session)
        return Outcome()


class Turns:
    """Airflow's loop: scheduling, executors, events, deadlines, timers, heartbeat; one after another."""

    def __init__(self, scheduler: SchedulerJobRunner) -> None:
        self._scheduler = scheduler

    async def run(self) -> None:
        """Take turns until ``num_runs`` is reached. Errors of a stage are raised as they are."""
        scheduler = self._scheduler
        drivers = list(self._drivers())
        supervisor = Supervisor(drivers, GRACE)
        self._rounds = Rounds(
            [driver.name for driver in drivers if driver.schedule.core],
            limit=scheduler.num_runs,
            only_idle=scheduler.only_idle,
            on_round=self._on_round,
            on_limit=lambda: self._on_limit(supervisor),
        )
        idle_sleep = 0.0 if conf.getboolean("core", "unit_test_mode") else self._idle
        try:
            await supervisor.run_sequentially(idle_sleep)
        except RoutineFailed as failed:
            raise failed.cause from None

    @property
    def _idle(self) -> float:
        return float(self._scheduler._scheduler_idle_sleep_time)

    def _drivers(self) -> Iterator[RoutineDriver]:
        """Yield the stages in Airflow's order. The heartbeat ends a round, so that a last one is whole."""
        core = Schedule(self._idle, core=True)
        orphans, *timers = (timer for timer in TIMERS if is_needed(timer, self._scheduler))
        yield self._driver(Step(orphans.name, body_of(orphans, self._scheduler)), orphans.schedule())
        yield self._driver(Step("scheduling", self._schedule), core)
        yield self._driver(Step("executors", self._beat), core)
        yield self._driver(DeadlineStep(self._scheduler), core)
        for timer in timers:
            yield self._driver(Step(timer.name, body_of(timer, self._scheduler)), timer.schedule())
        yield self._driver(Step("heartbeat", self._heartbeat), core)

    def _driver(self, routine: Routine, schedule: Schedule) -> RoutineDriver:
        return RoutineDriver(
            routine,
            schedule,
            NO_RETRIES,
            StatsObserver(),
            wake_followers=lambda _: None,
            on_pass=lambda name, outcome: self._rounds.passed(name, outcome),
        )

    def _schedule(self) -> int:
        with create_session() as session:
            queued = self._scheduler._do_scheduling(session)
            session.expunge_all()
        return int(queued)

    def _beat(self) -> int:
        """Send the heartbeats, process the events, save the event logs; return the events left over."""
        scheduler = self._scheduler
        for executor in scheduler.executors:
            with stats.timer(
                "scheduler.executor_heartbeat_duration", tags={"executor": type(executor).__name__}
            ):
                executor.heartbeat()
        with create_session() as session:
            left = sum(
                scheduler._process_executor_events(executor=executor, session=session)
                for executor in scheduler.executors
            )
        for executor in scheduler.executors:
            self._save_event_logs(executor)
        return int(left)

    def _save_event_logs(self, executor: BaseExecutor) -> None:
        # As in Airflow's loop: that an audit log line is lost is no reason to end.
        try:
            with create_session() as session:
                self._scheduler._process_task_event_logs(executor._task_event_logs, session)
        except Exception:
            self._scheduler.log.exception("Something went wrong when trying to save task event logs.")

    def _heartbeat(self) -> None:
        scheduler = self._scheduler
        upstream.perform_heartbeat(
            job=scheduler.job, heartbeat_callback=scheduler.heartbeat_callback, only_if_necessary=True
        )

    def _on_round(self, seconds: float) -> None:
        self._scheduler._dag_id_to_team_name = {}
        report_round(seconds)

    def _on_limit(self, supervisor: Supervisor) -> None:
        scheduler, rounds = self._scheduler, self._rounds
        scheduler.log.info(
            "Exiting scheduler loop as requested number of runs (%d) has been reached (%d idle, %d total)",
            scheduler.num_runs,
            rounds.idle_in_a_row,
            rounds.total,
        )
        supervisor.stop()
