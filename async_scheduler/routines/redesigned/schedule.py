"""Visits dirty runs: what may run becomes scheduled, what cannot is flagged, what is over is ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.decide.states import LAST_FINISHED
from async_scheduler.driver.routine import Outcome
from async_scheduler.errors import LostRace
from async_scheduler.routines.redesigned.dirty import DirtyRuns, Known
from async_scheduler.routines.redesigned.ending import end_runs
from async_scheduler.routines.redesigned.expanding import write_expansions
from async_scheduler.routines.redesigned.handover import Handover
from async_scheduler.routines.redesigned.layout import Layouts
from async_scheduler.routines.redesigned.unusual import is_unusual
from async_scheduler.routines.redesigned.visiting import Visited, parts_of, visit
from async_scheduler.routines.redesigned.writing import write
from async_scheduler.store.limits import COUNTED_RUN_TYPES, refresh_exceeding
from async_scheduler.store.running import ClaimedRun, claim_runs, unverified_runs

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.plans.cache import CompiledDag, Plans

BLOCKED_LOOK_AGAIN = timedelta(seconds=5)
"""A run held back by the run before it is looked at again after this, should nobody report a change."""


@dataclass(slots=True)
class Pass:
    """What one transaction did; filled while it runs, believed once it has committed."""

    now: datetime
    ids: Sequence[int]
    visited: list[Visited] = field(default_factory=list)
    scheduled: int = 0
    finished: int = 0
    complete: bool = True
    ended: list[ClaimedRun] = field(default_factory=list)
    handed_over: list[ClaimedRun] = field(default_factory=list)
    unplanned: list[ClaimedRun] = field(default_factory=list)
    locked: list[int] = field(default_factory=list)


class ScheduleTaskInstances:
    """The middle of ``SchedulerJobRunner._do_scheduling`` over dirty runs, each visited to its fix point.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED for one batch, then its task instances in the order of ids,
    until the commit. The limit flag of dags is corrected afterwards, in a transaction of its own. Batches
    visited at the same time have no run in common, so they lock nothing that another one wants.

    :param batch: how many runs one transaction visits at most.
    :param lanes: how many such transactions are open at the same time at most.
    """

    name = "schedule"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        dirty: DirtyRuns,
        plans: Plans,
        batch: int,
        lanes: int = 1,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._batch = batch
        self._lanes = lanes
        self._handover = Handover(scheduler, sessions)
        self._verified: dict[int, UUID] = {}
        self._layouts = Layouts()

    async def run_once(self) -> Outcome:
        """Visit dirty runs, a batch in each lane; report what became of them."""
        now = timezone.utcnow()
        batches = (self._dirty.take(self._batch, now) for _ in range(self._lanes))
        passes = [Pass(now, ids) for ids in batches if ids]
        if not passes:
            return Outcome(due_in=self._dirty.due_in(now))
        errors = await self._attempt_all(passes)
        done = [one for one, error in zip(passes, errors, strict=True) if error is None]
        try:
            changed = [await self._follow_up(one) for one in done]
            await self._refresh_flags(done)
        except BaseException:
            # Committed, but not followed up: a look too many costs little, one too few a long time.
            self._dirty.mark(run for one in done for run in one.ids)
            raise
        failed = [error for error in errors if error is not None]
        for error in failed:
            if not isinstance(error, LostRace):
                raise error
        return self._report(done, any(changed), len(failed))

    async def _attempt_all(self, passes: Sequence[Pass]) -> list[Exception | None]:
        if len(passes) == 1:
            return [await self._attempt(passes[0])]
        async with asyncio.TaskGroup() as group:
            lanes = [
                group.create_task(self._attempt(one), name=f"{self.name} {number}")
                for number, one in enumerate(passes, start=1)
            ]
        return [lane.result() for lane in lanes]

    async def _attempt(self, done: Pass) -> Exception | None:
        """Visit one batch in a transaction; after an error return it, so that the other lanes go on."""
        try:
            async with transaction(self._sessions) as tx:
                await self._visit(tx, done)
        except Exception as error:
            self._dirty.mark(done.ids)
            return error
        except BaseException:
            self._dirty.mark(done.ids)
            raise
        return None

    async def _visit(self, tx: Transaction, done: Pass) -> None:
        claimed = await self._claim(tx, done.ids)
        done.locked = sorted(set(done.ids) - {run.id for run in claimed})
        ours = await self._sort(tx, claimed, done)
        for part in parts_of(ours):
            visited, strange = await visit(tx.session, part, done.now, self._layouts)
            done.visited += visited
            done.handed_over += strange
        if not done.visited:
            return
        expanded = await write_expansions(tx.session, done.visited, done.now)
        written = await write(tx.session, done.visited, self._scheduler.job.id, done.now)
        done.scheduled, done.finished = written.scheduled, written.finished + expanded
        done.complete = written.complete
        await self._end(tx, done)

    async def _claim(self, tx: Transaction, ids: Sequence[int]) -> list[ClaimedRun]:
        return await claim_runs(tx.session, ids)

    async def _sort(
        self, tx: Transaction, claimed: Sequence[ClaimedRun], done: Pass
    ) -> list[tuple[ClaimedRun, CompiledDag]]:
        """Return the runs decided here; the others are handed over or wait for their plan."""
        unverified = await self._unverified(tx, claimed)
        ours = []
        for run in claimed:
            compiled = self._plans.get(run.version)
            if compiled is None and not self._plans.is_absent(run.version):
                done.unplanned.append(run)
            elif compiled is None or run.id in unverified or is_unusual(run, compiled, done.now):
                done.handed_over.append(run)
            else:
                ours.append((run, compiled))
        return ours

    async def _unverified(self, tx: Transaction, claimed: Sequence[ClaimedRun]) -> set[int]:
        """Return the runs that Airflow has to check against a new dag version (``_verify_integrity...``)."""
        unsure = [
            run
            for run in claimed
            if not run.bundle_version and self._verified.get(run.id) != run.latest_version
        ]
        if not unsure:
            return set()
        unverified = await unverified_runs(tx.session, [run.id for run in unsure])
        for run in unsure:
            if run.id not in unverified and run.latest_version is not None:
                self._verified[run.id] = run.latest_version
        return unverified

    async def _end(self, tx: Transaction, done: Pass) -> None:
        over = [one for one in done.visited if one.outcome.verdict is not None]
        await end_runs(
            tx, [one for one in over if not one.compiled.plan.closes_upstream], done.now, self._scheduler
        )
        done.ended = [one.run for one in over]
        upstream = sorted(one.run.id for one in over if one.compiled.plan.closes_upstream)
        if upstream:
            await self._handover.close(tx, upstream)

    async def _follow_up(self, done: Pass) -> bool:
        """After the commit: runs for Airflow's code, plans to compile, the next visits.

        Return whether Airflow's code changed anything.
        """
        self._plan_next_visits(done)
        _report_decisions(done.visited)
        changed = False
        for run in done.handed_over:
            changed |= await self._hand_over(run, done)
        await self._compile(done.unplanned)
        return changed

    async def _refresh_flags(self, done: Sequence[Pass]) -> None:
        ended = [run for one in done for run in one.ended]
        if dag_ids := {run.dag_id for run in ended if run.run_type in COUNTED_RUN_TYPES}:
            async with transaction(self._sessions) as tx:
                await refresh_exceeding(tx.session, dag_ids)

    def _plan_next_visits(self, done: Pass) -> None:
        dirty = self._dirty
        dirty.miss(done.locked)
        for run in done.locked:
            self._verified.pop(run, None)
        ended = {run.id for run in done.ended}
        for one in done.visited:
            changed = dirty.remember(one.run.id, _known(one))
            if one.compiled.plan.has_past and changed and (other := dirty.following(one.run.id)):
                dirty.mark([other])
            if one.run.id in ended:
                self._forget(one.run.id)
            elif one.outcome.unsettled or not done.complete:
                dirty.mark([one.run.id])
            else:
                self._plan_by_time(one, done.now)

    def _forget(self, run: int) -> None:
        self._dirty.forget(run)
        self._verified.pop(run, None)
        self._layouts.forget(run)

    def _plan_by_time(self, one: Visited, now: datetime) -> None:
        run, timeout = one.run, one.compiled.plan.dagrun_timeout
        if one.outcome.next_due is not None:
            self._dirty.mark_at(run.id, one.outcome.next_due)
        if one.facts.blocked_by_past:
            self._dirty.mark_at(run.id, now + BLOCKED_LOOK_AGAIN)
        if timeout is not None and run.start_date is not None:
            self._dirty.mark_at(run.id, run.start_date + timeout)

    async def _hand_over(self, run: ClaimedRun, done: Pass) -> bool:
        examined = await self._handover.examine(run.id)
        if examined is None:
            self._dirty.miss([run.id])
            return False
        done.scheduled += examined.scheduled
        done.finished += examined.flagged
        if examined.ended:
            # Airflow's code has corrected the flag of the dag itself.
            self._forget(run.id)
        elif examined.changed:
            self._dirty.mark([run.id])
        else:
            self._dirty.mark_at(run.id, done.now + BLOCKED_LOOK_AGAIN)
        return bool(examined.changed or examined.ended)

    async def _compile(self, unplanned: Collection[ClaimedRun]) -> None:
        versions = {run.version for run in unplanned if run.version is not None}
        if versions:
            await self._plans.fetch(self._sessions, versions)
            self._dirty.mark(run.id for run in unplanned)

    def _report(self, done: Sequence[Pass], changed: bool, lost_races: int) -> Outcome:
        due_in = self._dirty.due_in(timezone.utcnow())
        counts = {
            "examined": sum(len(one.visited) + len(one.handed_over) for one in done),
            "handed_over": sum(len(one.handed_over) for one in done),
            "scheduled": sum(one.scheduled for one in done),
            "flagged": sum(one.finished for one in done),
            "ended": sum(len(one.ended) for one in done),
            "locked": sum(len(one.locked) for one in done),
        }
        if lost_races:
            counts["lost_race"] = lost_races
        ended = bool(counts["ended"]) or changed
        return Outcome(
            counts,
            progressed=bool(counts["scheduled"] or counts["flagged"] or ended),
            more=due_in == 0.0 or lost_races > 0,
            wakes=("enqueue", "start", "create") if ended else ("enqueue",),
            due_in=due_in,
        )


def _report_decisions(visited: Sequence[Visited]) -> None:
    for one in visited:
        tags = {"dag_id": one.run.dag_id, "run_type": one.run.run_type}
        stats.timing("dagrun.dependency-check", timedelta(seconds=one.seconds), tags=tags)


def _known(one: Visited) -> Known:
    finished = sum(state <= LAST_FINISHED for state in one.board.states)
    return Known(one.run.dag_id, one.run.logical_date, finished)
