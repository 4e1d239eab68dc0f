"""Looks at runs: reads their task instances, gathers facts, decides."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from async_scheduler.database.faults import classify
from async_scheduler.decide.evaluate import Outcome, evaluate
from async_scheduler.decide.facts import RunFacts
from async_scheduler.decide.past import PreviousRun, blocked_tasks
from async_scheduler.decide.states import (
    LAST_FINISHED,
    LAST_SCHEDULABLE,
    NO_STATE,
    UP_FOR_RESCHEDULE,
    UP_FOR_RETRY,
)
from async_scheduler.decide.waiting import FailedTry, reschedule_waits, retry_due, retry_waits
from async_scheduler.routines.redesigned.layout import Ids, Layouts, lay_out_runs
from async_scheduler.store.instances import load_failed_tries
from async_scheduler.store.waits import (
    load_lengths,
    load_previous_run,
    load_reschedules,
    load_skip_decisions,
    tasks_seen_before,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.decide.board import Board
    from async_scheduler.plans.cache import CompiledDag
    from async_scheduler.store.instances import PackedStates
    from async_scheduler.store.running import ClaimedRun

log = logging.getLogger(__name__)

Planned = tuple["ClaimedRun", "CompiledDag"]

SLICE = 2000
"""Task instances that are decided about at a stretch: a few milliseconds."""


@dataclass(slots=True)
class Visited:
    """One run looked at. ``ids`` are those of its unfinished task instances, by position on the board."""

    run: ClaimedRun
    compiled: CompiledDag
    board: Board
    ids: Ids
    states_before: list[int]
    facts: RunFacts
    outcome: Outcome
    seconds: float
    """How long the decision took."""

    @property
    def size(self) -> int:
        """How many task instances the run has, those included that its mapped tasks are about to get."""
        return len(self.states_before) + sum(length or 0 for length in self.outcome.expanded.values())

    def ids_at(self, positions: Collection[int]) -> list[UUID]:
        """Return the ids of the task instances at *positions*, unfinished before the visit."""
        return [instance for position in positions if (instance := self.ids[position]) is not None]


@dataclass(slots=True)
class _Opened:
    """A run whose task instances lie on a board, not yet decided."""

    run: ClaimedRun
    compiled: CompiledDag
    board: Board
    ids: Ids

    def positions(self, state: int) -> list[int]:
        """Return where task instances are in *state*."""
        if state not in self.board.states:
            return []
        return [position for position, found in enumerate(self.board.states) if found == state]

    def waits_for_a_map(self) -> bool:
        """Whether an instance of a task mapped over results may become scheduled."""
        plan, tasks = self.compiled.plan, self.board.tasks
        return plan.has_maps and any(
            NO_STATE <= state <= LAST_SCHEDULABLE and plan.tasks[tasks[position]].inputs
            for position, state in enumerate(self.board.states)
        )

    def rescheduled(self) -> list[int]:
        """Return where a reschedule may have to be waited for (``ReadyToRescheduleDep``)."""
        found = self.positions(UP_FOR_RESCHEDULE)
        if self.compiled.plan.reschedules:
            found += [position for position in self.positions(NO_STATE) if self._reschedules(position)]
        return found

    def _reschedules(self, position: int) -> bool:
        task = self.compiled.plan.tasks[self.board.tasks[position]]
        # A mapped sensor does not know its mode.
        return task.is_sensor if self.board.map_indexes[position] >= 0 else task.reschedules


def parts_of(runs: Sequence[Planned]) -> Iterator[list[Planned]]:
    """Cut *runs* where the loop should get its turn: between two parts the next one is read."""
    part: list[Planned] = []
    instances = 0
    for run, compiled in runs:
        part.append((run, compiled))
        instances += len(compiled.plan.tasks)
        if instances >= SLICE:
            yield part
            part, instances = [], 0
    if part:
        yield part


async def visit(
    session: AsyncSession,
    runs: Sequence[Planned],
    now: datetime,
    layouts: Layouts,
    seen: Mapping[int, PackedStates] | None = None,
) -> tuple[list[Visited], list[ClaimedRun]]:
    """Decide about *runs* as of *now*; return them, and those that Airflow's own code has to look at.

    Reads at most two statements for all task instances and one for each kind of fact, plus two for each run
    whose tasks wait for the run before it.

    :param seen: the states of their task instances, where they were read together with the runs.
    """
    plans = {run.id: compiled.plan for run, compiled in runs}
    laid, unknown = await lay_out_runs(session, plans, layouts, seen)
    strange = [run for run, _ in runs if run.id in unknown]
    opened = [_Opened(run, compiled, *laid[run.id]) for run, compiled in runs if run.id in laid]
    visited = []
    gathered, odd = await _gather_apart(session, opened, now)
    strange += odd
    for one, known in gathered:
        try:
            decided = _decide(one, known)
        # One run must not hold up the others, whatever is odd about it: Airflow's code, which gets it
        # next, logs what a run raises and goes on.
        except Exception:
            log.exception("Cannot decide DAG run %s of %s", one.run.run_id, one.run.dag_id)
            strange.append(one.run)
        else:
            if decided.outcome.strange:
                strange.append(one.run)
            else:
                visited.append(decided)
    return visited, strange


def _decide(one: _Opened, facts: RunFacts) -> Visited:
    before, started = list(one.board.states), perf_counter()
    outcome = evaluate(one.board, facts)
    seconds = perf_counter() - started
    return Visited(one.run, one.compiled, one.board, one.ids, before, facts, outcome, seconds)


async def _gather_apart(
    session: AsyncSession, opened: Sequence[_Opened], now: datetime
) -> tuple[list[tuple[_Opened, RunFacts]], list[ClaimedRun]]:
    """Return the facts about *opened*, and the runs that raise: a retry in the year 10,000 does, say."""
    try:
        return list(zip(opened, await _gather(session, opened, now), strict=True)), []
    except Exception as error:
        if isinstance(error, SQLAlchemyError) or classify(error).passing:
            raise
        if len(opened) == 1:
            log.exception("Cannot decide DAG run %s of %s", opened[0].run.run_id, opened[0].run.dag_id)
            return [], [opened[0].run]
    each = [await _gather_apart(session, [one], now) for one in opened]
    return [found for some, _ in each for found in some], [run for _, odd in each for run in odd]


async def _gather(session: AsyncSession, opened: Sequence[_Opened], now: datetime) -> list[RunFacts]:
    retries = await _retries(session, opened, now)
    reschedules = await _reschedules(session, opened, now)
    skips = await _skips(session, opened)
    lengths, returned = await _lengths(session, opened)
    facts = []
    for one in opened:
        waiting = {**retries.get(one.run.id, {}), **reschedules.get(one.run.id, {})}
        blocked = await _blocked(session, one) if one.compiled.plan.has_past else frozenset()
        run = one.run.id
        facts.append(
            RunFacts(waiting, blocked, skips.get(run, {}), lengths.get(run, {}), returned.get(run, {}))
        )
    return facts


_Waiting = dict[int, dict[int, datetime]]
"""By run and position, until when a task instance waits."""


async def _retries(session: AsyncSession, opened: Sequence[_Opened], now: datetime) -> _Waiting:
    where = {
        instance: (one, position)
        for one in opened
        for position in one.positions(UP_FOR_RETRY)
        if (instance := one.ids[position]) is not None
    }
    waiting: _Waiting = {}
    if not where:
        return waiting
    for instance, (tries, end, override) in (await load_failed_tries(session, list(where))).items():
        one, position = where[instance]
        task = one.compiled.plan.tasks[one.board.tasks[position]]
        failed = FailedTry(one.run.dag_id, task.task_id, one.run.logical_date, tries, end, override)
        when = retry_due(failed, task.retry, now)
        if retry_waits(when, now):
            waiting.setdefault(one.run.id, {})[position] = when
    return waiting


async def _reschedules(session: AsyncSession, opened: Sequence[_Opened], now: datetime) -> _Waiting:
    where = {
        instance: (one, position)
        for one in opened
        for position in one.rescheduled()
        if (instance := one.ids[position]) is not None
    }
    waiting: _Waiting = {}
    if not where:
        return waiting
    for instance, when in (await load_reschedules(session, list(where))).items():
        one, position = where[instance]
        if reschedule_waits(when, now):
            waiting.setdefault(one.run.id, {})[position] = when
    return waiting


_ByTask = dict[int, dict[int, int]]
"""By run and task, a number."""


async def _lengths(session: AsyncSession, opened: Sequence[_Opened]) -> tuple[_ByTask, _ByTask]:
    """Return what plain tasks returned, and how many values mapped ones did, for runs that may need it."""
    asking = {one.run.id: one.compiled.plan.index for one in opened if one.waits_for_a_map()}
    if not asking:
        return {}, {}
    plain, mapped = await load_lengths(session, list(asking))
    return _by_index(asking, plain), _by_index(asking, mapped)


def _by_index(asking: dict[int, dict[str, int]], found: dict[int, dict[str, int]]) -> _ByTask:
    return {
        run: {asking[run][task_id]: number for task_id, number in of.items() if task_id in asking[run]}
        for run, of in found.items()
    }


async def _skips(session: AsyncSession, opened: Sequence[_Opened]) -> dict[int, dict[tuple[int, int], Any]]:
    asking = {one.run.id: one.compiled.plan.index for one in opened if one.compiled.plan.has_skips}
    if not asking:
        return {}
    return {
        run: {
            (asking[run][task_id], map_index): decision
            for (task_id, map_index), decision in decisions.items()
            if task_id in asking[run]
        }
        for run, decisions in (await load_skip_decisions(session, list(asking))).items()
    }


async def _blocked(session: AsyncSession, one: _Opened) -> frozenset[int]:
    plan, run = one.compiled.plan, one.run
    waiting = {
        one.board.tasks[position] for position, state in enumerate(one.board.states) if state > LAST_FINISHED
    }
    if not any(plan.tasks[task].depends_on_past for task in waiting):
        return frozenset()
    rows = await load_previous_run(session, run.dag_id, run.logical_date, plan.catchup)
    if rows is None:
        return frozenset()
    index = plan.index
    previous = PreviousRun(
        rows.logical_date, {index[t]: count for t, count in rows.unsuccessful.items() if t in index}
    )
    new = [
        plan.tasks[task].task_id
        for task in waiting
        if plan.tasks[task].ignore_first_depends_on_past and task not in previous.unsuccessful
    ]
    seen: set[int] = set()
    if new and run.logical_date is not None:
        seen = {
            index[task_id] for task_id in await tasks_seen_before(session, run.dag_id, new, run.logical_date)
        }
    return blocked_tasks(plan, previous, run.backfill_ordinal == 1, seen)
