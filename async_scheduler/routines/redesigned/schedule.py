"""Visits dirty runs: what may run becomes scheduled, what cannot is flagged, what is over is ended."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.errors import LostRace
from async_scheduler.routines.redesigned.deciding import Deciding
from async_scheduler.routines.redesigned.ending import end_runs
from async_scheduler.routines.redesigned.expanding import write_expansions
from async_scheduler.routines.redesigned.flags import LimitFlags
from async_scheduler.routines.redesigned.handover import Handover
from async_scheduler.routines.redesigned.next_visits import NextVisits
from async_scheduler.routines.redesigned.passes import Pass
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.routines.redesigned.wide_maps import AHEAD
from async_scheduler.routines.redesigned.writing import write
from async_scheduler.store.limits import COUNTED_RUN_TYPES
from async_scheduler.store.running import ClaimedRun, claim_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns
    from async_scheduler.routines.redesigned.unlocked import UnlockedVisits
    from async_scheduler.routines.redesigned.visiting import Visited


class ScheduleTaskInstances:
    """The middle of ``SchedulerJobRunner._do_scheduling`` over dirty runs, each visited to its fix point.

    Where a pass is given :class:`UnlockedVisits`, runs are first visited without a lock, and those for which
    that does not do, under one. Locks then: ``dag_run`` NO KEY UPDATE SKIP LOCKED for one batch, then its
    task instances in the order of ids, until the commit. The limit flag of dags is corrected afterwards, in a
    transaction of its own; a ``dag`` row that somebody holds is passed over and tried again soon.

    Several passes may be under way at the same time, each a :class:`Lane`: they have no run in common, so
    they lock nothing that another one wants, and a long visit of one run delays no other.

    :param batch: how many runs one transaction visits at most.
    :param wake: called with the names of routines that have something to do though the pass is not over:
        another lane, or who queues what was scheduled.
    :param runs_wait: whether queued runs may wait for the end of others.
    :param ahead: how many instances of one task of a run are scheduled at a time. With None all are, and
        large runs are visited like others.
    """

    name = "schedule"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        dirty: DirtyRuns,
        plans: Plans,
        batch: int,
        wake: Callable[[tuple[str, ...]], None],
        runs_wait: Callable[[], bool] = lambda: True,
        ahead: int | None = AHEAD,
        peers: Peers | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._batch = batch
        self._wake = wake
        self._runs_wait = runs_wait
        self._peers = peers or Peers()
        self._handover = Handover(scheduler, sessions)
        self._flags = LimitFlags(sessions)
        self._next = NextVisits(dirty)
        self.deciding = Deciding(plans, ahead)

    async def run_once(self, unlocked: UnlockedVisits | None = None) -> Outcome:
        """Visit a batch of dirty runs; report what became of them.

        :param unlocked: visits them without a lock as far as that goes, where that can be.
        """
        now = timezone.utcnow()
        done = Pass(now, self._dirty.take(self._batch, now))
        due_in = self._dirty.due_in(now)
        if not done.ids:
            return await self._correct_flags(due_in, unlocked.sessions if unlocked else None)
        if due_in == 0.0:
            self._wake_another()
        with self._another_woken_in(due_in):
            try:
                changed = await self._attempt(done, unlocked)
            finally:
                self._dirty.release(done.ids)
        return self._report(done, changed)

    def _wake_another(self) -> None:
        self._wake((self.name,))

    @contextmanager
    def _another_woken_in(self, seconds: float | None) -> Iterator[None]:
        """Wake another lane after so many seconds, unless the block has ended: what is due then cannot wait.

        A long visit keeps this one from its own timer, and the others sleep.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self._wake_another) if seconds else None
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()

    async def _attempt(self, done: Pass, unlocked: UnlockedVisits | None) -> bool:
        """Visit the batch and see to what follows; return whether Airflow's code changed anything."""
        try:
            left = done.ids if unlocked is None else await unlocked.visit(done)
            if left:
                await self._visit_in_one_transaction(done, left)
        except BaseException as error:
            self._dirty.mark(done.ids)
            self._next.put_off(done)
            # What has ended without a lock is committed, and not found again.
            self._note_ended(done)
            done.lost_race = isinstance(error, LostRace)
            if not done.lost_race:
                raise
            return False
        try:
            self._note_ended(done)
            changed = await self._follow_up(done)
            done.lifted = await self._flags.correct(unlocked.sessions if unlocked else None)
        except BaseException:
            # Committed, but not followed up: a look too many costs little, one too few a long time.
            self._dirty.mark(done.ids)
            raise
        return changed

    def _note_ended(self, done: Pass) -> None:
        """Note what the end of a run may make room for; it does no harm where none has ended."""
        for run in done.ended:
            self._dirty.note_room(run.dag_id)
        self._flags.doubt(run.dag_id for run in done.ended if run.run_type in COUNTED_RUN_TYPES)

    async def _visit_in_one_transaction(self, done: Pass, ids: Sequence[int]) -> None:
        async with transaction(self._sessions) as tx:
            await self._visit(tx, done, ids)

    async def _visit(self, tx: Transaction, done: Pass, ids: Sequence[int]) -> None:
        claimed = await self._claim(tx, ids)
        done.locked += sorted(set(ids) - {run.id for run in claimed})
        visited = await self.deciding.decide(tx.session, claimed, done)
        if not visited:
            return
        expanded = await write_expansions(tx.session, visited, done.now)
        written = await write(tx.session, visited, self._scheduler.job.id, done.now, self._peers)
        done.visited += visited
        done.scheduled += written.scheduled
        done.finished += written.finished + expanded
        done.complete &= written.complete
        await self._end(tx, visited, done)

    async def _claim(self, tx: Transaction, ids: Sequence[int]) -> list[ClaimedRun]:
        return await claim_runs(tx.session, ids)

    async def _end(self, tx: Transaction, visited: Sequence[Visited], done: Pass) -> None:
        over = [one for one in visited if one.outcome.verdict is not None]
        await end_runs(
            tx, [one for one in over if not one.compiled.plan.closes_upstream], done.now, self._scheduler
        )
        done.ended += [one.run for one in over]
        upstream = sorted(one.run.id for one in over if one.compiled.plan.closes_upstream)
        if upstream:
            await self._handover.close(tx, upstream)

    async def _follow_up(self, done: Pass) -> bool:
        """After the commit: runs for Airflow's code, plans to compile, the next visits.

        Return whether Airflow's code changed anything.
        """
        self._next.plan(done)
        for missed in done.locked:
            self.deciding.doubt(missed)
        for ended in done.ended:
            self._forget(ended.id)
        _report_decisions(done.visited)
        changed = False
        for run in done.handed_over:
            changed |= await self._hand_over(run, done)
        await self._compile(done.unplanned)
        return changed

    async def _correct_flags(self, due_in: float | None, looks: Sessions | None) -> Outcome:
        """Try the flags again whose rows somebody held, and wake who waits for them."""
        lifted = await self._flags.correct(looks)
        return Outcome(progressed=lifted > 0, due_in=_sooner(due_in, self._flags.due_in), wakes=("create",))

    def _forget(self, run: int) -> None:
        self._dirty.forget(run)
        self.deciding.forget(run)

    async def _hand_over(self, run: ClaimedRun, done: Pass) -> bool:
        examined = await self._handover.examine(run.id)
        if examined is None:
            self._dirty.miss([run.id])
            return False
        done.scheduled += examined.scheduled
        done.finished += examined.flagged
        self._next.after_airflow(run, self._plans.get(run.version))
        if examined.ended:
            self._dirty.note_room(run.dag_id)
            # Airflow's code has corrected the flag of the dag itself.
            self._forget(run.id)
        elif examined.changed:
            self._dirty.mark([run.id])
        else:
            self._next.look_again(run.id, done.now)
        return bool(examined.changed or examined.ended)

    async def _compile(self, unplanned: Collection[ClaimedRun]) -> None:
        versions = {run.version for run in unplanned if run.version is not None}
        if versions:
            await self._plans.fetch(self._sessions, versions)
            self._dirty.mark(run.id for run in unplanned)

    def _report(self, done: Pass, changed: bool) -> Outcome:
        due_in = _sooner(self._dirty.due_in(timezone.utcnow()), self._flags.due_in)
        if done.lost_race:
            counts = {"lost_race": 1, **({"scheduled": done.announced} if done.announced else {})}
            wakes = ["start"] if done.ended and self._runs_wait() else []
            return Outcome(
                counts, progressed=bool(done.announced or wakes), more=True, due_in=due_in, wakes=tuple(wakes)
            )
        counts = {
            "examined": len(done.visited) + len(done.handed_over),
            "handed_over": len(done.handed_over),
            "scheduled": done.scheduled,
            "flagged": done.finished,
            "ended": len(done.ended),
            "locked": len(done.locked),
        }
        ended = bool(done.ended) or changed
        wakes = ["enqueue"] if changed or done.scheduled > done.announced else []
        if ended and self._runs_wait():
            wakes.append("start")
        # The end of a run makes room for a new one of its dag where it lifts the dag's flag, not else.
        if changed or done.lifted:
            wakes.append("create")
        return Outcome(
            counts,
            progressed=bool(done.scheduled or done.finished or ended or done.lifted),
            more=due_in == 0.0,
            wakes=tuple(wakes),
            due_in=due_in,
        )


@dataclass(frozen=True, slots=True)
class Lane:
    """One of the routines that visit runs at the same time, each on a driver of its own.

    ``unlocked`` are its visits without a lock, None where there are none.
    """

    name: str
    stage: ScheduleTaskInstances
    unlocked: UnlockedVisits | None = None

    async def run_once(self) -> Outcome:
        """Visit a batch of dirty runs."""
        return await self.stage.run_once(self.unlocked)


def _sooner(one: float | None, other: float | None) -> float | None:
    """Return the shorter of two waits; None is one without an end."""
    return one if other is None or (one is not None and one < other) else other


def _report_decisions(visited: Sequence[Visited]) -> None:
    for one in visited:
        tags = {"dag_id": one.run.dag_id, "run_type": one.run.run_type}
        stats.timing("dagrun.dependency-check", timedelta(seconds=one.seconds), tags=tags)
