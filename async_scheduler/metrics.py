"""Reports to Airflow's metrics: every pass of a routine, retries, pool waits and the lag of the loop.

Airflow's own metrics keep their names; upstream code emits them. These are added:

``async_scheduler.routine.duration`` (timer, tag ``routine``), ``async_scheduler.routine.count`` (counter,
tags ``routine`` and ``what``), ``async_scheduler.routine.retries`` (counter, tags ``routine`` and
``fault``), ``async_scheduler.pool.wait`` (timer), ``async_scheduler.loop_lag`` (timer).
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats

from async_scheduler.measure import attribution, stepping

if TYPE_CHECKING:
    from async_scheduler.driver.routine import Outcome


class StatsObserver:
    """Turns what drivers report into Airflow metrics."""

    def attribute(self, routine: str, iteration: int) -> AbstractContextManager[object]:
        """Attribute what runs in the block to a pass of *routine*, for traces."""
        return attribution.routine(routine, iteration=iteration)

    def timed(self, one_pass: Coroutine[Any, Any, Outcome]) -> Coroutine[Any, Any, Outcome]:
        """Return *one_pass* with its steps timed while a trace of that level is on, else as it is."""
        return stepping.stepped(one_pass)

    def passed(self, routine: str, seconds: float, outcome: Outcome) -> None:
        """Report the duration and counts of a pass."""
        tags = {"routine": routine}
        stats.timing("async_scheduler.routine.duration", timedelta(seconds=seconds), tags=tags)
        for what, count in outcome.counts.items():
            if count:
                stats.incr("async_scheduler.routine.count", count, tags={**tags, "what": what})

    def retried(self, routine: str, fault: str) -> None:
        """Report that a pass is tried again because of *fault*."""
        tags = {"routine": routine, "fault": fault.replace(" ", "_")}
        stats.incr("async_scheduler.routine.retries", tags=tags)


def report_pool_wait(seconds: float) -> None:
    """Report how long a transaction waited for its connection."""
    stats.timing("async_scheduler.pool.wait", timedelta(seconds=seconds))


def report_loop_lag(seconds: float) -> None:
    """Report how late the event loop came back to a waker."""
    stats.timing("async_scheduler.loop_lag", timedelta(seconds=seconds))


def report_round(seconds: float) -> None:
    """Report the duration of a round under the name of the sync loop's own metric."""
    stats.timing("scheduler.scheduler_loop_duration", timedelta(seconds=seconds))
