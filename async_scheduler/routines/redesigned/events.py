"""An executor's events as one set: read once, logged, and the runs they belong to marked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from collections.abc import Callable, Collection, Mapping
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
LOOK_AFTER, LOOK_AT_LATEST = 0.05, 0.1
"""Seconds after which good ends are compared with the database: in a pass that brings no others, in any."""
STILL_ACTIVE = frozenset({"scheduled", "queued", "running", "restarting"})
"""A task instance found in these after its executor is done with it may have been killed."""


class Told(NamedTuple):
    """An event whose run was told of, and when."""

    at: datetime
    event: tuple[Any, Any]


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
        self._told: dict[TaskInstanceKey, Told] = {}
        self._look_from: float | None = None
        self._put_back = 0
        self._tells = self._brought_news = False
        self._last_news = -inf
        self._took = 0.0

    async def run_once(self) -> Outcome:
        """Beat once, then process the events brought back.

        While workloads and events flow the next beat follows soon: the end of a task is what its successors
        wait for. An executor that is slow to answer is asked less often, one that is quiet at its interval.
        """
        started, self._tells, self._brought_news = monotonic(), False, False
        outcome = await super().run_once()
        self._took = monotonic() - started
        if outcome.counts["handed_over"]:
            self._last_news = monotonic()
        if outcome.due_in is not None:
            outcome = replace(outcome, due_in=min(self.pause(), outcome.due_in))
        return replace(
            outcome,
            counts={**outcome.counts, "put_back": self._put_back},
            progressed=self._tells or self._brought_news,
            # Of what was only told of they were woken when it was heard.
            wakes=() if self._tells and not self._brought_news else self._followers(),
        )

    def least_between_beats(self) -> float:
        """Return half of what is between two beats that nothing asks for: a pass may be a little early.

        A look at events that is due waits for none: it may be what finds that their executor has trouble.
        """
        return inf if self._look_in() == 0.0 else self.spacing() / 2

    def rest(self, seconds: float) -> float:
        """Have the executor listened to while it has work; it asks for the next pass when it has news.

        Events that were put back are no news: they are tried again after *seconds*.
        """
        if self._look_from is None and (self._port.events or not self._port.has_unfinished_work):
            return seconds
        rest = min(self._poll_interval, self._look_in())
        if self._port.has_unfinished_work:
            self._port.listen(self, rest)
        return rest

    def _look_in(self) -> float:
        """Return the seconds until events are looked at that wait for it, infinity if none do."""
        return inf if self._look_from is None else max(0.0, self._look_from + LOOK_AFTER - monotonic())

    def spacing(self) -> float:
        """Return the seconds from one beat to the next at least."""
        return max(SHORTEST_POLL, BEAT_SHARE * max(self._took, self._port.beat_seconds))

    def pause(self) -> float:
        """Return the seconds until the next beat while workloads and events flow, else infinity."""
        quiet = monotonic() - self._last_news
        if quiet >= BUSY_FOR:
            return inf
        return max(self.spacing(), min(LONGEST_POLL, QUIET_SHARE * quiet))

    def _followers(self) -> tuple[str, ...]:
        return ("schedule", "enqueue") if self._has_backlog() else ("schedule",)

    async def _take_up_events(self) -> int:
        """Tell of new events; process them now, or with those of later passes where nobody waits for that.

        What waits for the end of a task is its run, and a run that is told of needs no look at the event:
        that only logs it, and finds tasks that were killed. So a good end may wait until nothing else is to
        do, and many are looked at together.
        """
        if not self._port.events:
            self._look_from = None
            return 0
        new = {key: event for key, event in self._port.events.items() if not self._is_told(key, event)}
        if new:
            self._last_news = monotonic()
        told = self._mark_at_once(_split(new)[0])
        all_may_wait = not self._put_back and all(key in told and _is_good(new[key]) for key in new)
        return 0 if all_may_wait and self._looks_later(news=bool(new)) else await self.process_events()

    def _looks_later(self, *, news: bool) -> bool:
        now = monotonic()
        if self._look_from is None:
            self._look_from = now
        return now < self._look_from + (LOOK_AT_LATEST if news else LOOK_AFTER)

    async def process_events(self) -> int:
        """Process the events at hand; return how many."""
        events = dict(self._port.events)
        ended, started = _split(events)
        self._mark_at_once(ended)
        if started:
            await self._write_ids(started)
        gone, agreeing = await self._look(ended) if ended else ([], [])
        settled = [*started, *gone, *(one.key for one in agreeing)]
        for key in settled:
            self._port.settle(key, events[key])
        unseen = [one for one in agreeing if self._may_have_missed(one)]
        self._dirty.mark(one.row.run for one in unseen)
        await self._finished.write(agreeing, went_on={one.key for one in unseen if one.key in self._told})
        for_airflow = {run for key in self._port.events if (run := self._port.run_of(key)) is not None}
        others = await super().process_events()
        left = self._port.events
        self._told = {key: told for key, told in self._told.items() if key in left}
        self._look_from, self._put_back = None, len(left)
        # Marked only now that Airflow's code has committed what it made of them.
        self._dirty.mark(self._contradicting)
        if others:
            self._dirty.mark(for_airflow)
        self._contradicting.clear()
        self._brought_news = bool(unseen or gone or others)
        return len(settled) + others

    def _may_have_missed(self, ended: Ended) -> bool:
        """Whether no visit is known to have begun after the last write to the task instance."""
        told, written = self._told.get(ended.key), ended.row.updated_at
        return told is None or written is None or written >= told.at

    def _is_told(self, key: Any, event: tuple[Any, Any]) -> bool:
        """Whether this very event was told of: of a task that resumes another, equal one may follow."""
        return key in self._told and self._told[key].event is event

    def _mark_at_once(self, ended: Mapping[TaskInstanceKey, tuple[Any, Any]]) -> set[TaskInstanceKey]:
        """Have the runs of *ended* visited that are known without a look; return which those are.

        Once for each event: those whose rows are locked come again with each pass. A worker has written the
        end before its executor hears of it, so the visit will see it. Where an event turns out to contradict
        the database, the visit was one too many.
        """
        new = (key for key, event in ended.items() if not self._is_told(key, event))
        runs = {key: run for key in new if (run := self._port.run_of(key)) is not None}
        if runs:
            now = timezone.utcnow()
            self._told.update({key: Told(now, ended[key]) for key in runs})
            self._dirty.mark(runs.values())
            self._wake(self._followers())
            self._tells = True
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


def _is_good(event: tuple[Any, Any]) -> bool:
    return str(getattr(event[0], "value", event[0])) == "success"


def _contradicts(row: ReportedRow, key: TaskInstanceKey, state: Any, rescheduled: Collection[UUID]) -> bool:
    """Whether the executor is done with a try that the database has under way: it may have been killed.

    A sensor that has rescheduled itself may be scheduled again, for the same try, before the good end of its
    stay before is told. Airflow's code would take it for killed; of tasks that resume it knows better.
    """
    if row.try_number != key.try_number or row.state not in STILL_ACTIVE:
        return False
    return not (_is_good((state, None)) and row.state == "scheduled" and row.id in rescheduled)


def _split(
    events: dict[Any, tuple[Any, Any]],
) -> tuple[dict[TaskInstanceKey, tuple[Any, Any]], dict[TaskInstanceKey, Any]]:
    """Return the events of ended task instances, and the external ids of those that are on their way.

    Left out, for Airflow's code: what is not a task instance, states other than these, and instances with
    events for several tries, of which Airflow takes the last.
    """
    tries = Counter(key.primary for key in events if isinstance(key, TaskInstanceKey))
    ended, started = {}, {}
    for key, event in events.items():
        if not isinstance(key, TaskInstanceKey) or tries[key.primary] > 1:
            continue
        state, info = event
        name = str(getattr(state, "value", state))
        if name in ENDED:
            ended[key] = event  # the very one: see _is_told
        elif name in STARTED:
            started[key] = info
    return ended, started
