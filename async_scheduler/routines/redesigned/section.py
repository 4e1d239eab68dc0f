"""Inside the critical section: which task instances are queued, and which are left to other schedulers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone

from async_scheduler.decide.admit import Admission, Candidate, TaskLimits
from async_scheduler.store.candidates import (
    EVERYBODY,
    Opening,
    Owners,
    lock_candidates,
    lock_first_with_room,
)
from async_scheduler.store.dialect import dialect_of
from async_scheduler.store.pools import (
    LockedPool,
    Room,
    count_active,
    count_occupied,
    enter_critical_section,
    room_in,
    wait_for_critical_section,
)
from async_scheduler.store.scheduled import (
    Preassigned,
    QueuedRow,
    any_scheduled,
    fail_scheduled,
    load_limited,
    mark_queued,
    release_queued,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.database.transaction import Transaction
    from async_scheduler.plans.cache import Plans
    from async_scheduler.routines.redesigned.peers import Courtesy

log = logging.getLogger(__name__)

ENDED = frozenset({"success", "failed"})


@dataclass(frozen=True, slots=True)
class Entry:
    """The pools that were locked when a critical section was entered, and when that was, by ``perf_counter``.

    ``waited`` tells whether another was in it.
    """

    pools: Sequence[LockedPool]
    at: float
    waited: bool


@dataclass(slots=True)
class Section:
    """One critical section: how it was entered, its counters, what it queued, and what it left.

    ``left_over`` tells whether task instances may be left that an ended task makes room for.
    """

    entry: Entry
    admission: Admission
    executors: dict[str | None, Any]
    now: datetime
    queued: list[QueuedRow] = field(default_factory=list)
    unplanned: set[UUID] = field(default_factory=set)
    seen_dags: set[str] = field(default_factory=set)
    spared: int = 0
    left_over: bool = False


class CriticalSection:
    """Fills one critical section after another.

    Task instances of this scheduler's runs come first, and of runs that are nobody's; those of other
    schedulers' runs are left to them as long as they come (:class:`Courtesy`). Nothing is left where there is
    too little for all that wait, or where a pool or limit that several runs share is used up: there the order
    of priority decides, whoever comes, and for a moment it does so in the sections that follow.
    """

    def __init__(self, scheduler: SchedulerJobRunner, plans: Plans, courtesy: Courtesy) -> None:
        self._scheduler = scheduler
        self._plans = plans
        self._courtesy = courtesy
        self._short = False
        """Whether the last section left too little room for more, or found some that found none."""

    async def enter(self, tx: Transaction) -> Entry | None:
        """Enter the section, beside async schedulers also when its turn has come; None if it is taken.

        Locks: see :func:`enter_critical_section`; held until the commit.

        :raises sqlalchemy.exc.DBAPIError: when another stays in it for too long, or a pool row is locked
            (55P03 and the like).
        """
        pools, waited = await enter_critical_section(tx.session), False
        if not pools:
            pools, waited = await wait_for_critical_section(tx.session, self._courtesy.patience), True
        return Entry(pools, perf_counter(), waited) if pools else None

    async def fill(self, tx: Transaction, entry: Entry, most: int) -> Section:
        """Queue at most *most* task instances. Locks: see :func:`lock_candidates`; held until the commit."""
        others = self._courtesy.spared()
        leaves = bool(others) and not self._courtesy.order_decides
        ours = Owners(others, theirs=False) if leaves else EVERYBODY
        opening = await self._open(tx, most, ours)
        taken = await count_occupied(tx.session) if opening is None else opening.taken
        section = self._begin(entry, room_in(entry.pools, taken))
        left = int(min(most, section.admission.open_slots))
        tried = leaves and left > 0
        if tried:
            leaves, opening = await self._fill_leaving(tx, section, left, ours, opening), None
        if not leaves or left <= 0:
            await self._fill_in_order(tx, section, left, opening)
        if others and not leaves and left > 0:
            self._courtesy.after_order(tried=tried, scarce=bool(section.admission.used_up))
        self._short = section.admission.open_slots <= 0 or section.admission.starved.size() > 0
        return section

    async def _open(self, tx: Transaction, most: int, owners: Owners) -> Opening | None:
        """Read the first candidates of *owners* together with what is active, where that can be and pays.

        Not where room is short: most of the task instances locked would be so in vain.
        """
        if self._short or not dialect_of(tx.session).is_postgresql:
            return None
        started = perf_counter()
        opening = await lock_first_with_room(tx.session, most, owners)
        _time_query(started)
        return opening

    def _begin(self, entry: Entry, room: Room) -> Section:
        executors: dict[str | None, Any] = {}
        slots = {executor: executor.slots_available for executor in self._scheduler.executors}
        admission = Admission(room.pools, room.run_active, executors, slots)
        admission.starved.runs |= room.full_runs
        return Section(entry, admission, executors, timezone.utcnow())

    async def _fill_in_order(
        self, tx: Transaction, section: Section, left: int, opening: Opening | None = None
    ) -> None:
        """Queue the best of all that wait, whoever has their runs.

        :param opening: the first candidates, where they are known, and perhaps more of them than fit.
        """
        waiting = None if opening is None else opening.waiting
        while left > 0:
            starved = section.admission.starved.size()
            if opening is None or starved:  # of which none would have been asked for
                candidates, found = await self._candidates(tx, section, section.admission, left, EVERYBODY)
            else:
                first, found = opening.candidates[:left], opening.waiting
                candidates = await self._limited(tx, section, section.admission, first)
            opening = None
            admitted = section.admission.admit(candidates)
            await self._queue(tx, section, admitted)
            # Starved ones were left out of the count: whether there are any is asked below.
            waiting = found - len(admitted) if found is not None and not starved else None
            exhausted = len(candidates) < left
            left -= len(admitted)
            if exhausted or section.admission.starved.size() == starved:
                break
        section.left_over = await any_scheduled(tx.session) if waiting is None else waiting > 0

    async def _fill_leaving(
        self, tx: Transaction, section: Section, left: int, ours: Owners, opening: Opening | None
    ) -> bool:
        """Queue what is *ours*; return False, with nothing queued, where the order decides.

        :param opening: the first candidates of ours, where they are known.
        """
        admission, admitted, exhausted = section.admission.copy(), list[Candidate](), False
        while len(admitted) < left and not exhausted:
            starved, asked = admission.starved.size(), left - len(admitted)
            if opening is None or starved:  # of which none would have been asked for
                candidates, waiting = await self._candidates(tx, section, admission, asked, ours)
            else:
                candidates = await self._limited(tx, section, admission, opening.candidates[:asked])
                waiting = opening.waiting if opening.candidates else None
            opening = None
            admitted += admission.admit(candidates)
            if (waiting or 0) > section.admission.open_slots or admission.used_up > section.admission.used_up:
                section.seen_dags.clear()  # what was read of them is in the copy
                return False
            exhausted = len(candidates) < asked or admission.starved.size() == starved
        section.admission = admission
        section.left_over = not exhausted or admission.starved.size() > 0
        await self._queue(tx, section, admitted)
        if self._courtesy.look_due(len(section.queued)):
            await self._look_at_what_is_left(tx, section, left, Owners(ours.schedulers, theirs=True))
        return True

    async def _look_at_what_is_left(
        self, tx: Transaction, section: Section, most: int, theirs: Owners
    ) -> None:
        """See whether others come for what is left to them; queue here what they do not come for."""
        seen = self._courtesy.sees(len(section.queued), most)
        candidates, _ = await self._candidates(tx, section, section.admission, seen, theirs)
        could_run = section.admission.copy().admit(candidates)
        taken = self._courtesy.judge(could_run, busy=len(section.queued))
        section.spared = len(could_run) - len(taken)
        room = most - len(section.queued)
        await self._queue(tx, section, section.admission.admit(taken[:room]))

    async def _candidates(
        self,
        tx: Transaction,
        section: Section,
        admission: Admission,
        most: int,
        owners: Owners,
    ) -> tuple[list[Candidate], int | None]:
        started = perf_counter()
        candidates, waiting = await lock_candidates(tx.session, most, admission.starved, owners)
        _time_query(started)
        return await self._limited(tx, section, admission, candidates), waiting

    async def _limited(
        self, tx: Transaction, section: Section, admission: Admission, candidates: list[Candidate]
    ) -> list[Candidate]:
        """Return *candidates* with their executors and limits known, without those that have to wait."""
        self._resolve_executors(tx, section.executors, candidates)
        unread = {one.dag_id for one in candidates if one.limited} - section.seen_dags
        if not unread:
            return candidates
        hidden = await self._read_limits(tx, section, unread, admission)
        return [one for one in candidates if one.dag_id not in hidden]

    async def _read_limits(
        self, tx: Transaction, section: Section, dag_ids: set[str], admission: Admission
    ) -> set[str]:
        """Enter the limits of *dag_ids*; return those whose candidates have to wait, or cannot run at all."""
        section.seen_dags |= dag_ids
        admission.count_active(await count_active(tx.session, dag_ids))
        waiting, absent = set(), set()
        for one in await load_limited(tx.session, dag_ids):
            compiled = self._plans.get(one.version)
            if compiled is not None:
                for task in compiled.plan.tasks:
                    limits = TaskLimits(task.max_active_per_dag, task.max_active_per_run)
                    admission.limits[one.dag_id, task.task_id] = limits
            elif one.version is None or self._plans.is_absent(one.version):
                log.error("DAG '%s' not found in serialized_dag table", one.dag_id)
                absent.add(one.dag_id)
            else:
                section.unplanned.add(one.version)
                waiting.add(one.dag_id)
        if absent:
            await fail_scheduled(tx.session, absent)
        return waiting | absent

    def _resolve_executors(
        self, tx: Transaction, executors: dict[str | None, Any], candidates: Sequence[Candidate]
    ) -> None:
        for name in {one.executor for one in candidates} - executors.keys():
            asking = SimpleNamespace(get_executor_name=lambda name=name: name)
            executors[name] = self._scheduler._try_to_load_executor(asking, tx.sync_session)

    async def _queue(self, tx: Transaction, section: Section, admitted: Sequence[Candidate]) -> None:
        if not admitted:
            return
        order = {one.id: number for number, one in enumerate(admitted)}
        # Not before the counts were read: a task queued into a place just left must not seem to overlap.
        section.now = timezone.utcnow()
        rows = await mark_queued(
            tx.session, list(order), self._scheduler.job.id, section.now, self._preassigned()
        )
        section.queued += sorted(rows, key=lambda row: order[row.id])
        if over := [row.id for row in rows if row.run_state in ENDED]:
            await release_queued(tx.session, over, section.now)

    def _preassigned(self) -> Preassigned:
        executors = self._scheduler.executors
        opting_in = [executor for executor in executors if executor.pre_assigns_external_executor_id]
        names = {
            name
            for executor in opting_in
            if executor.name
            for name in (executor.name.alias, executor.name.module_path)
            if name
        }
        everyone = len(opting_in) == len(executors)
        return Preassigned(everyone, frozenset(names), self._scheduler.executor in opting_in)


def _time_query(started: float) -> None:
    stats.timing("scheduler.critical_section_query_duration", 1000 * (perf_counter() - started))
