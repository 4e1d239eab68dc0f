"""When a run is visited next: at once, when something comes due, or when somebody reports a change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow._shared.timezones import timezone

from async_scheduler.decide.states import LAST_FINISHED
from async_scheduler.routines.redesigned.dirty import Known

if TYPE_CHECKING:
    from async_scheduler.plans.cache import CompiledDag
    from async_scheduler.routines.redesigned.dirty import DirtyRuns
    from async_scheduler.routines.redesigned.passes import Pass
    from async_scheduler.routines.redesigned.visiting import Visited
    from async_scheduler.store.running import ClaimedRun

LARGE = 1000
"""A run with so many task instances is visited alone, so that no other waits for its statements."""
REST_SHARE = 3
LONGEST_REST = timedelta(seconds=0.25)
"""Such a run is then left alone, for so many times as long as its visit took, but no longer than that: a map
reports its instances' ends all the time, and between them there is nothing to decide."""
NOT_COUNTED = -1
"""In place of the number of finished task instances, where they were not loaded."""
BLOCKED_LOOK_AGAIN = timedelta(seconds=5)
"""A run held back by the run before it, or by its own instances that wait to be queued, is looked at again
after this, should nobody report a change."""


def put_off_large(visited: list[Visited], done: Pass) -> list[Visited]:
    """Return *visited* without large runs, unless there is no other; they come in passes of their own."""
    large = [one.run.id for one in visited if one.size >= LARGE]
    if not large or len(visited) == 1:
        return visited
    done.put_off += large
    return [one for one in visited if one.size < LARGE]


class NextVisits:
    """Tells *dirty* what follows from a visit that has committed."""

    def __init__(self, dirty: DirtyRuns) -> None:
        self._dirty = dirty

    def put_off(self, done: Pass) -> None:
        """Have the large runs visited alone that were put off."""
        for run in done.put_off:
            self._dirty.keep_apart(run, done.now)
        self._dirty.mark(done.put_off)

    def plan(self, done: Pass) -> None:
        """Mark the runs of *done* for when they are to be visited again; the caller forgets ended ones."""
        dirty = self._dirty
        dirty.miss(done.locked)
        self.put_off(done)
        ended = {run.id for run in done.ended}
        self._let_rest(done)
        for one in done.visited:
            if dirty.remember(one.run.id, _known(one)) and one.compiled.plan.has_past:
                self._mark_following(one.run.id)
            if one.run.id in ended:
                continue
            if one.outcome.unsettled or not done.complete:
                dirty.mark([one.run.id])
            else:
                self._plan_by_time(one, done.now)
                self._plan_held_back(one, done)

    def after_airflow(self, run: ClaimedRun, compiled: CompiledDag | None) -> None:
        """Plan for the run after *run*, which Airflow's code has examined: what has finished is not known."""
        has_past = compiled is not None and compiled.plan.has_past
        self._dirty.remember(run.id, Known(run.dag_id, run.logical_date, NOT_COUNTED, has_past))
        if has_past:
            self._mark_following(run.id)

    def _mark_following(self, run: int) -> None:
        if (other := self._dirty.following(run)) is not None:
            self._dirty.mark([other])

    def look_again(self, run: int, now: datetime) -> None:
        """Look at *run* again some time after *now* though nothing is known to change."""
        self._dirty.mark_at(run, now + BLOCKED_LOOK_AGAIN)

    def _let_rest(self, done: Pass) -> None:
        now = timezone.utcnow()
        rest = min(REST_SHARE * (now - done.now), LONGEST_REST)
        for one in done.visited:
            if one.size >= LARGE:
                self._dirty.keep_apart(one.run.id, now if one.outcome.unsettled else now + rest)

    def _plan_by_time(self, one: Visited, now: datetime) -> None:
        run, timeout = one.run, one.compiled.plan.dagrun_timeout
        if one.outcome.next_due is not None:
            self._dirty.mark_at(run.id, one.outcome.next_due)
        if one.facts.blocked_by_past:
            self.look_again(run.id, now)
        if timeout is not None and run.start_date is not None:
            self._dirty.mark_at(run.id, run.start_date + timeout)

    def _plan_held_back(self, one: Visited, done: Pass) -> None:
        if one.run.id in done.held_back:
            if one.outcome.scheduled:
                self._dirty.mark([one.run.id])
            else:
                self.look_again(one.run.id, done.now)


def _known(one: Visited) -> Known:
    states = bytes(one.board.states)
    finished = sum(states.count(state) for state in range(LAST_FINISHED + 1))
    return Known(one.run.dag_id, one.run.logical_date, finished, one.compiled.plan.has_past)
