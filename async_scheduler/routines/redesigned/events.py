"""An executor's events as one set: read once, logged, and the runs they belong to marked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from airflow.models.taskinstancekey import TaskInstanceKey

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.routines.executor import RunExecutor
from async_scheduler.routines.redesigned.finished import Ended, FinishedLog
from async_scheduler.store.events import (
    ReportedRow,
    load_reported,
    load_rescheduled,
    set_external_ids,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.executor_port import ExecutorPort
    from async_scheduler.bridge.executor_view import ExecutorView
    from async_scheduler.driver.routine import Outcome
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

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

    :param looks: the sessions of transactions that only read.
    :param has_backlog: whether scheduled task instances wait for room that an ended task may have made.
    :param wake: called with the names of routines that have something to do though the pass is not over.
    """

    def __init__(
        self,
        name: str,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        looks: Sessions,
        port: ExecutorPort,
        view: ExecutorView,
        poll_interval: float,
        timeout: float,
        dirty: DirtyRuns,
        has_backlog: Callable[[], bool],
        wake: Callable[[tuple[str, ...]], None] = lambda _: None,
    ) -> None:
        super().__init__(name, scheduler, sessions, port, view, poll_interval, timeout)
        self._looks = looks
        self._dirty = dirty
        self._has_backlog = has_backlog
        self._wake = wake
        self._finished = FinishedLog(view, scheduler.job.id)
        self._contradicting: set[int] = set()
        self._told: set[TaskInstanceKey] = set()
        self._last_news = -inf
        self._took = 0.0

    async def run_once(self) -> Outcome:
        """Beat once, then process the events brought back.

        While workloads and events flow the next beat follows soon: the end of a task is what its successors
        wait for. An executor that is slow to answer is asked less often, one that is quiet at its interval.
        """
        started = monotonic()
        outcome = await super().run_once()
        self._took = monotonic() - started
        if outcome.counts["events"] or outcome.counts["handed_over"]:
            self._last_news = monotonic()
        if outcome.due_in is not None:
            outcome = replace(outcome, due_in=min(self.pause(), outcome.due_in))
        return replace(outcome, wakes=("schedule", "enqueue") if self._has_backlog() else ("schedule",))

    def rest(self, seconds: float) -> float:
        """Have the executor listened to while it has work; it asks for the next pass when it has news.

        Events that were put back are no news: they are tried again after *seconds*.
        """
        if self._port.events or not self._port.has_unfinished_work:
            return seconds
        self._port.listen(self, self._poll_interval)
        return self._poll_interval

    def spacing(self) -> float:
        """Return the seconds from one beat to the next at least."""
        return max(SHORTEST_POLL, BEAT_SHARE * max(self._took, self._port.beat_seconds))

    def pause(self) -> float:
        """Return the seconds until the next beat while workloads and events flow, else infinity."""
        quiet = monotonic() - self._last_news
        if quiet >= BUSY_FOR:
            return inf
        return max(self.spacing(), min(LONGEST_POLL, QUIET_SHARE * quiet))

    async def process_events(self) -> int:
        """Process the events at hand; return how many."""
        events, now = dict(self._port.events), timezone.utcnow()
        ended, started = _split(events)
        told = self._mark_at_once(ended)
        if started:
            await self._write_ids(started)
        gone, agreeing = await self._look(ended) if ended else ([], [])
        settled = [*started, *gone, *(one.key for one in agreeing)]
        for key in settled:
            self._port.settle(key, events[key])
        self._dirty.mark(one.row.run for one in agreeing if one.key not in told or _is_newer(one.row, now))
        await self._finished.write(agreeing)
        processed = len(settled) + await super().process_events()
        self._told &= self._port.events.keys()
        # Marked only now that Airflow's code has committed what it made of them.
        self._dirty.mark(self._contradicting)
        self._contradicting.clear()
        return processed

    def _mark_at_once(self, ended: Collection[TaskInstanceKey]) -> set[TaskInstanceKey]:
        """Have the runs of *ended* visited that are known without a look; return which those are.

        Once for each event: those whose rows are locked come again with each pass. A worker has written the
        end before its executor hears of it, so the visit will see it. Where an event turns out to contradict
        the database, the visit was one too many.
        """
        new = (key for key in ended if key not in self._told)
        runs = {key: run for key in new if (run := self._port.run_of(key)) is not None}
        if runs:
            self._told.update(runs)
            self._dirty.mark(runs.values())
            self._wake(("schedule",))
        return set(runs)

    async def _write_ids(self, started: dict[TaskInstanceKey, Any]) -> None:
        async with transaction(self._sessions) as tx:
            await set_external_ids(tx.session, {key.primary: info for key, info in started.items()})

    async def _look(self, ended: dict[TaskInstanceKey, Any]) -> tuple[list[TaskInstanceKey], list[Ended]]:
        """Read the task instances that have *ended*, and sort the events by what is found."""
        rescheduled: set[UUID] = set()
        async with transaction(self._looks) as tx:
            rows = await load_reported(tx.session, {key.primary: self._port.id_of(key) for key in ended})
            if scheduled := [row.id for row in rows if row.state == "scheduled"]:
                rescheduled = await load_rescheduled(tx.session, scheduled)
        return self._sort(ended, rows, rescheduled)

    def _sort(
        self, ended: dict[TaskInstanceKey, Any], rows: list[ReportedRow], rescheduled: Collection[UUID]
    ) -> tuple[list[TaskInstanceKey], list[Ended]]:
        """Return the events whose task instance is gone, and those that agree with the database.

        The runs of the others are remembered.
        """
        found = {row.key: row for row in rows}
        gone, agreeing = [], []
        for key, (state, _) in ended.items():
            row = found.get(key.primary)
            if row is None:
                gone.append(key)
            elif _contradicts(row, key, state, rescheduled):
                self._contradicting.add(row.run)
            else:
                agreeing.append(Ended(row, key, state))
        return gone, agreeing


def _is_newer(row: ReportedRow, time: datetime) -> bool:
    """Whether a task instance was written after *time*: a visit that began then may have missed it."""
    return row.updated_at is None or row.updated_at >= time


def _contradicts(row: ReportedRow, key: TaskInstanceKey, state: Any, rescheduled: Collection[UUID]) -> bool:
    """Whether the executor is done with a try that the database has under way: it may have been killed.

    A sensor that has rescheduled itself may be scheduled again, for the same try, before the good end of its
    stay before is told. Airflow's code would take it for killed; of tasks that resume it knows better.
    """
    if row.try_number != key.try_number or row.state not in STILL_ACTIVE:
        return False
    is_success = str(getattr(state, "value", state)) == "success"
    return not (is_success and row.state == "scheduled" and row.id in rescheduled)


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
