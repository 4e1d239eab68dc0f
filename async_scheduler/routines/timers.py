"""The interval timers of the sync loop, each as a routine of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow.configuration import conf

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import NOTHING, Outcome, Schedule
from async_scheduler.errors import ExecutorUnresponsive

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.threads import PurposeThread

log = logging.getLogger(__name__)

Needs = Literal["always", "metrics", "metrics or tracing", "local executor"]


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer of ``_run_scheduler_loop``.

    ``mirrors`` – the method it calls; ``interval`` – section, key and fallback of the option, or seconds;
    ``thread`` – runs in a thread of its own because it calls executors or touches files; ``locks`` – what it
    locks, for the table in DESIGN.md.
    """

    name: str
    mirrors: str
    interval: tuple[str, str, float] | float
    locks: str
    thread: bool = False
    at_start: bool = False
    non_fatal: bool = False
    needs: Needs = "always"

    @property
    def seconds(self) -> float:
        """The interval as configured now."""
        if isinstance(self.interval, tuple):
            section, key, fallback = self.interval
            return float(conf.getfloat(section, key, fallback=fallback))
        return self.interval

    def schedule(self) -> Schedule:
        """Return when it runs: after one interval first, as in the sync loop, unless at start."""
        seconds = self.seconds
        first = 0.0 if self.at_start else seconds
        return Schedule(seconds, first_after=first, non_fatal=self.non_fatal)


TIMERS: tuple[Timer, ...] = (
    Timer(
        "adopt_orphans",
        "adopt_or_reset_orphaned_tasks",
        ("scheduler", "orphaned_tasks_check_interval", 300.0),
        "job UPDATE; task_instance NO KEY UPDATE SKIP LOCKED",
        thread=True,
        at_start=True,
    ),
    Timer(
        "trigger_timeouts",
        "check_trigger_timeouts",
        ("scheduler", "trigger_timeout_check_interval", 15.0),
        "task_instance UPDATE, waits",
    ),
    Timer(
        "awaiting_input_timeouts",
        "check_awaiting_input_timeouts",
        ("scheduler", "trigger_timeout_check_interval", 15.0),
        "task_instance NO KEY UPDATE SKIP LOCKED, 100 rows",
    ),
    Timer("backfills", "_mark_backfills_complete", 30.0, "backfill UPDATE, waits"),
    Timer(
        "pool_metrics",
        "_emit_pool_metrics",
        ("scheduler", "pool_metrics_interval", 5.0),
        "none",
        needs="metrics or tracing",
    ),
    Timer(
        "ti_metrics",
        "_emit_ti_metrics",
        ("scheduler", "ti_metrics_interval", 30.0),
        "none",
        needs="metrics",
    ),
    Timer(
        "running_dags_metric",
        "_emit_running_dags_metric",
        ("scheduler", "dagrun_metrics_interval", 30.0),
        "none",
        needs="metrics",
    ),
    Timer(
        "lost_heartbeats",
        "_find_and_purge_task_instances_without_heartbeats",
        ("scheduler", "task_instance_heartbeat_timeout_detection_interval", 10.0),
        "none",
    ),
    Timer(
        "paused_dag_runs",
        "_update_dag_run_state_for_paused_dags",
        60.0,
        "dag_run and task_instance UPDATE, waits",
    ),
    Timer(
        "stuck_in_queued",
        "_handle_tasks_stuck_in_queued",
        ("scheduler", "task_queued_timeout_check_interval", 120.0),
        "task_instance UPDATE, waits; a commit for each",
        thread=True,
    ),
    Timer(
        "asset_orphanage",
        "_update_asset_orphanage",
        ("scheduler", "parsing_cleanup_interval", 60.0),
        "asset_active DELETE / INSERT, waits",
    ),
    Timer(
        "unreferenced_triggers",
        "_remove_unreferenced_triggers",
        ("scheduler", "parsing_cleanup_interval", 60.0),
        "trigger DELETE, waits",
        non_fatal=True,
    ),
    Timer(
        "stale_bundles",
        "remove_stale_bundle_versions",
        ("dag_processor", "stale_bundle_cleanup_interval", 1800.0),
        "none (files)",
        thread=True,
        needs="local executor",
    ),
    Timer(
        "connection_test_reaper",
        "_reap_stale_connection_tests",
        ("connection_test", "reaper_interval", 30.0),
        "connection_test_request NO KEY UPDATE SKIP LOCKED",
        non_fatal=True,
    ),
)


class LoopTimer:
    """A timer whose body runs over the async session."""

    def __init__(self, timer: Timer, body: Callable[..., Any], sessions: Sessions) -> None:
        self.name = timer.name
        self._timer = timer
        self._body = body
        self._sessions = sessions

    async def run_once(self) -> Outcome:
        """Run the timer's body once, in one transaction."""
        async with transaction(self._sessions) as tx:
            await tx.run(self._body, **self._arguments(tx.sync_session))
        return NOTHING

    def _arguments(self, session: Any) -> dict[str, Any]:
        if self._timer.mirrors == "_find_and_purge_task_instances_without_heartbeats":
            return {}  # opens its own session, which joins this transaction
        return {"session": session}


class ThreadTimer:
    """A timer whose body blocks, on a thread of its own with a sync session."""

    def __init__(self, timer: Timer, body: Callable[..., Any], thread: PurposeThread) -> None:
        self.name = timer.name
        self._body = body
        self._thread = thread

    async def run_once(self) -> Outcome:
        """Run the timer's body once; one executor that does not answer is no reason to end the scheduler."""
        try:
            await self._thread.call(self._body)
        except ExecutorUnresponsive as error:
            log.warning("%s: %s; trying again when it is due", self.name, error)
        return NOTHING


def is_needed(timer: Timer, scheduler: SchedulerJobRunner) -> bool:
    """Return whether the sync loop would start *timer* with the present configuration."""
    if timer.needs == "local executor":
        return timer.seconds > 0 and any(executor.is_local for executor in scheduler.executors)
    if timer.needs == "always":
        return True
    metrics = bool(scheduler._is_metrics_enabled())
    return metrics or (timer.needs == "metrics or tracing" and bool(scheduler._is_tracing_enabled()))


def body_of(timer: Timer, scheduler: SchedulerJobRunner) -> Callable[..., Any]:
    """Return the upstream callable that *timer* runs."""
    if timer.needs == "local executor":
        from airflow.dag_processing.bundles.base import BundleUsageTrackingManager

        body: Callable[..., Any] = BundleUsageTrackingManager().remove_stale_bundle_versions
        return body
    method: Callable[..., Any] = getattr(scheduler, timer.mirrors)
    return method
