"""An executor's events as one set: read once, logged, and the runs they belong to marked."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow.models.taskinstancekey import TaskInstanceKey

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.routines.executor import RunExecutor
from async_scheduler.store.events import (
    ReportedRow,
    load_reported,
    load_rescheduled,
    set_external_ids,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.executor_port import ExecutorPort
    from async_scheduler.bridge.executor_view import ExecutorView
    from async_scheduler.driver.routine import Outcome
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

log = logging.getLogger("airflow.jobs.scheduler_job_runner.SchedulerJobRunner")
"""Airflow's own logger for the line below, which tools parse."""

FINISHED_LINE = (
    "TaskInstance Finished: dag_id=%s, task_id=%s, run_id=%s, map_index=%s, ti_id=%s, "
    "run_start_date=%s, run_end_date=%s, "
    "run_duration=%s, state=%s, executor=%s, executor_state=%s, try_number=%s, max_tries=%s, "
    "pool=%s, queue=%s, priority_weight=%d, operator=%s, queued_dttm=%s, scheduled_dttm=%s,"
    "queued_by_job_id=%s, pid=%s"
)
ENDED = frozenset({"success", "failed"})
STARTED = frozenset({"queued", "running"})
SHORTEST_POLL = 0.005
"""Seconds between two beats of an executor that is busy and quick."""
BEAT_SHARE = 1.0
"""A beat that took long is followed by a pause so many times as long."""
QUIET_SHARE, LONGEST_POLL = 0.5, 0.02
"""A busy executor from which nothing has come for a while is asked again after so much of that while, this
many seconds at most: asking keeps the loop busy, and what comes waits for no more than that share."""
BUSY_FOR = 1.0
"""Seconds after the last workload or event for which an executor counts as busy."""
STILL_ACTIVE = frozenset({"scheduled", "queued", "running", "restarting"})
"""A task instance found in these after its executor is done with it may have been killed."""


class RunExecutorInSets(RunExecutor):
    """The executor's part of the loop, with its events read as a set.

    Nothing is locked to read them. Only an event that contradicts the database goes through Airflow's
    ``process_executor_events``, which decides whether the task was killed.

    :param has_backlog: whether scheduled task instances wait for room that an ended task may have made.
    """

    def __init__(
        self,
        name: str,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        port: ExecutorPort,
        view: ExecutorView,
        poll_interval: float,
        timeout: float,
        dirty: DirtyRuns,
        has_backlog: Callable[[], bool],
    ) -> None:
        super().__init__(name, scheduler, sessions, port, view, poll_interval, timeout)
        self._dirty = dirty
        self._has_backlog = has_backlog
        self._contradicting: set[int] = set()
        self._last_news = -inf

    async def run_once(self) -> Outcome:
        """Beat once, then process the events brought back.

        While workloads and events flow the next beat follows soon: the end of a task is what its successors
        wait for. An executor that is slow to answer is asked less often, one that is quiet at its interval.
        """
        started = monotonic()
        outcome = await super().run_once()
        if outcome.due_in is not None:
            outcome = replace(outcome, due_in=min(self._pause(outcome, started), outcome.due_in))
        return replace(outcome, wakes=("schedule", "enqueue") if self._has_backlog() else ("schedule",))

    def _pause(self, outcome: Outcome, started: float) -> float:
        """Return the seconds until the next beat while workloads and events flow, else infinity."""
        now = monotonic()
        if outcome.counts["events"] or outcome.counts["handed_over"]:
            self._last_news = now
        quiet = now - self._last_news
        if quiet >= BUSY_FOR:
            return inf
        return max(SHORTEST_POLL, BEAT_SHARE * (now - started), min(LONGEST_POLL, QUIET_SHARE * quiet))

    async def process_events(self) -> int:
        """Process the events at hand; return how many."""
        events = dict(self._port.events)
        ended, started = _split(events)
        settled: list[Any] = []
        rescheduled: set[UUID] = set()
        if ended or started:
            async with transaction(self._sessions) as tx:
                if started:
                    given = {key.primary: info for key, info in started.items()}
                    await set_external_ids(tx.session, given)
                known = {key.primary: self._port.id_of(key) for key in ended}
                rows = await load_reported(tx.session, known) if ended else []
                if scheduled := [row.id for row in rows if row.state == "scheduled"]:
                    rescheduled = await load_rescheduled(tx.session, scheduled)
            settled = [*started, *self._settle(ended, rows, rescheduled)]
        for key in settled:
            self._port.settle(key, events[key])
        processed = len(settled) + await super().process_events()
        # Marked only now that Airflow's code has committed what it made of them.
        self._dirty.mark(self._contradicting)
        self._contradicting.clear()
        return processed

    def _settle(
        self, ended: dict[TaskInstanceKey, Any], rows: list[ReportedRow], rescheduled: Collection[UUID]
    ) -> list[TaskInstanceKey]:
        """Return the events that agree with the database, or whose task instance is gone; mark the runs."""
        found = {row.key: row for row in rows}
        agreeing = []
        for key, (state, _) in ended.items():
            row = found.get(key.primary)
            if row is not None and _contradicts(row, key, state, rescheduled):
                self._contradicting.add(row.run)
                continue
            if row is not None:
                self._dirty.mark([row.run])
                self._log(row, key, state)
            agreeing.append(key)
        return agreeing

    def _log(self, row: ReportedRow, key: TaskInstanceKey, state: Any) -> None:
        if row.try_number != key.try_number:
            log.warning(
                "TI try_number mismatch: db_try_number=%d event_try_number=%d ti=%s state=%s job_id=%s. "
                "Another scheduler may have already modified this TI.",
                row.try_number,
                key.try_number,
                _described(row),
                row.state,
                self._scheduler.job.id,
            )
        if log.isEnabledFor(logging.INFO):
            log.info(FINISHED_LINE, *_line(row), *self._ending(row, key, state))

    def _ending(self, row: ReportedRow, key: TaskInstanceKey, state: Any) -> tuple[Any, ...]:
        return (
            row.state,
            self._view,
            state,
            key.try_number,
            row.max_tries,
            row.pool,
            row.queue,
            row.priority_weight,
            row.operator,
            row.queued_dttm,
            row.scheduled_dttm,
            row.queued_by_job_id,
            row.pid,
        )


def _described(row: ReportedRow) -> str:
    """Return what ``TaskInstance.__repr__`` says."""
    index = f"map_index={row.map_index} " if row.map_index >= 0 else ""
    return f"<TaskInstance: {row.dag_id}.{row.task_id} {row.run_id} {index}[{row.state}] ti_id={row.id}>"


def _contradicts(row: ReportedRow, key: TaskInstanceKey, state: Any, rescheduled: Collection[UUID]) -> bool:
    """Whether the executor is done with a try that the database has under way: it may have been killed.

    A sensor that has rescheduled itself may be scheduled again, for the same try, before the good end of its
    stay before is told. Airflow's code would take it for killed; of tasks that resume it knows better.
    """
    if row.try_number != key.try_number or row.state not in STILL_ACTIVE:
        return False
    is_success = str(getattr(state, "value", state)) == "success"
    return not (is_success and row.state == "scheduled" and row.id in rescheduled)


def _line(row: ReportedRow) -> tuple[Any, ...]:
    return (
        row.dag_id,
        row.task_id,
        row.run_id,
        row.map_index,
        row.id,
        row.start_date,
        row.end_date,
        row.duration,
    )


def _split(
    events: dict[Any, tuple[Any, Any]],
) -> tuple[dict[TaskInstanceKey, tuple[Any, Any]], dict[TaskInstanceKey, Any]]:
    """Return the events of ended task instances, and the external ids of those that are on their way.

    Left out, for Airflow's code: what is not a task instance, states other than these, and instances with
    events for several tries, of which Airflow takes the last.
    """
    tries = Counter(key.primary for key in events if isinstance(key, TaskInstanceKey))
    ended, started = {}, {}
    for key, (state, info) in events.items():
        if not isinstance(key, TaskInstanceKey) or tries[key.primary] > 1:
            continue
        name = str(getattr(state, "value", state))
        if name in ENDED:
            ended[key] = (state, info)
        elif name in STARTED:
            started[key] = info
    return ended, started
