"""The critical section: queues scheduled task instances within pools, limits and executor slots."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone
from airflow.models.pool import normalize_pool_name_for_stats
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy.exc import DBAPIError

from async_scheduler.bridge.executor_view import ExecutorView
from async_scheduler.database.faults import Fault, classify
from async_scheduler.database.transaction import Sessions, Transaction, after_commit, transaction
from async_scheduler.decide.admit import Admission, Candidate, TaskLimits
from async_scheduler.driver.routine import NOTHING, Outcome
from async_scheduler.routines.redesigned.doubts import Doubts, Queued
from async_scheduler.routines.redesigned.peers import Courtesy, Peers
from async_scheduler.routines.redesigned.workloads import WorkloadFactory
from async_scheduler.store.candidates import lock_candidates
from async_scheduler.store.pools import count_active, enter_critical_section
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

    from async_scheduler.plans.cache import Plans

log = logging.getLogger(__name__)

SLICE = 0.005
"""Seconds of work at a stretch before the loop gets its turn."""
TAKEN_LOOK_AGAIN = 0.03
"""Seconds after which a section that another scheduler was in is tried again: about as long as one takes. It
may have looked before what waits here was committed, and nobody else tells it."""
DOUBT_LOOK_AGAIN = 1.0
"""Seconds after which it is asked again what became of a commit without an answer."""
ENDED = frozenset({"success", "failed"})


@dataclass(slots=True)
class Section:
    """One critical section: its counters, what it queued, and what it left."""

    admission: Admission
    now: datetime
    queued: list[QueuedRow] = field(default_factory=list)
    unplanned: set[UUID] = field(default_factory=set)
    seen_dags: set[str] = field(default_factory=set)
    spared: set[UUID] = field(default_factory=set)
    left_over: bool = False


class EnqueueTaskInstances:
    """Mirrors the end of ``SchedulerJobRunner._do_scheduling``.

    Locks: transaction advisory lock (try), all of ``slot_pool`` NO KEY UPDATE NOWAIT, ``task_instance`` NO
    KEY UPDATE SKIP LOCKED, until the commit. Workloads are built, signed and handed over after it.

    :param batch: how many task instances one section queues at most.
    :param peers: the other schedulers, to whom task instances of their runs are left.
    """

    name = "enqueue"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        plans: Plans,
        batch: int,
        peers: Peers | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._plans = plans
        self._batch = batch
        self._courtesy = Courtesy(peers or Peers())
        self._workloads = WorkloadFactory()
        self._committed: deque[Queued] = deque()
        self._doubts = Doubts()
        self._expected: list[tuple[ExecutorView, TaskInstanceKey]] = []
        self.backlog = False
        """Whether scheduled task instances may have been left behind: a freed slot may let them in."""

    async def run_once(self) -> Outcome:
        """Queue what fits; report how many, or that another scheduler holds the section."""
        try:
            self._committed += await self._doubts.settle(self._sessions, self._scheduler.job.id)
            await self._hand_over()
            outcome = await self._pass()
            return replace(outcome, due_in=DOUBT_LOOK_AGAIN) if self._doubts else outcome
        finally:
            # Also when the pass was cancelled after its commit: all of it is handed over.
            while self._committed:
                self._give()
            if not self._doubts:
                self._cease_to_expect()

    async def _pass(self) -> Outcome:
        most = self._most()
        if most <= 0:
            log.debug("All executors are full, skipping critical section")
            self.backlog = True  # for all that is known: the next event makes room
            return NOTHING
        if (wait := self._courtesy.turn_in()) > 0:
            return Outcome(due_in=wait)
        timer = stats.timer("scheduler.critical_section_duration")
        timer.start()
        entered = perf_counter()
        section = await self._enter(most)
        timer.stop(send=section is not None)
        if section is None:
            log.debug("Critical section lock held by another scheduler")
            stats.incr("scheduler.critical_section_busy")
            return Outcome({"busy": 1}, due_in=TAKEN_LOOK_AGAIN)
        self._courtesy.after_section(section.spared, perf_counter() - entered)
        await self._hand_over()
        _report(section)
        self.backlog = section.left_over
        if section.unplanned:
            await self._plans.fetch(self._sessions, section.unplanned)
        count = len(section.queued)
        return Outcome(
            {"queued": count, **({"spared": spared} if (spared := len(section.spared)) else {})},
            progressed=count > 0,
            more=count >= most or bool(section.unplanned),
            due_in=self._courtesy.look_again_in(),
        )

    def _most(self) -> int:
        executors = self._scheduler.executors
        if sum(executor.slots_available for executor in executors) <= 0:
            return 0
        occupied = int(sum(executor.slots_occupied for executor in executors))
        return min(self._batch, int(self._scheduler._parallelism) - occupied)

    async def _enter(self, most: int) -> Section | None:
        try:
            async with transaction(self._sessions) as tx:
                return await self._work(tx, most)
        except DBAPIError as error:
            # Not `except OperationalError`: under asyncpg the pool's NOWAIT fails with a plain DBAPIError.
            if classify(error) is not Fault.LOCKED:
                raise
            return None

    async def _work(self, tx: Transaction, most: int) -> Section | None:
        room = await enter_critical_section(tx.session)
        if room is None:
            return None
        executors: dict[str | None, Any] = {}
        slots = {executor: executor.slots_available for executor in self._scheduler.executors}
        section = Section(Admission(room.pools, room.run_active, executors, slots), timezone.utcnow())
        section.admission.starved.runs |= room.full_runs
        left = int(min(most, section.admission.open_slots))
        waiting: int | None = None
        while left > 0:
            starved = section.admission.starved.size()
            candidates, found = await self._candidates(tx, section, left)
            self._resolve_executors(tx, executors, candidates)
            admitted, ours = self._admit(section, candidates, found or 0)
            await self._queue(tx, section, ours)
            # Starved ones were left out of the count: whether there are any is asked below.
            waiting = found - len(admitted) if found and not starved else None
            exhausted = len(candidates) < left
            left -= len(admitted)
            if exhausted or section.admission.starved.size() == starved:
                break
        section.left_over = await any_scheduled(tx.session) if waiting is None else waiting > 0
        for row in section.queued:
            self._commit_later(row, executors[row.executor])
        return section

    def _admit(
        self, section: Section, candidates: Sequence[Candidate], waiting: int
    ) -> tuple[list[Candidate], list[Candidate]]:
        """Return the candidates that fit, and those of them to queue here.

        The rest is left to other schedulers: task instances of their runs. Nothing is left where there is too
        little for all that wait: there the order of priority decides, whoever comes.
        """
        starved, room = section.admission.starved, section.admission.open_slots
        before = starved.shared()
        admitted = section.admission.admit(candidates)
        if waiting > room or starved.shared() > before:
            return admitted, admitted
        section.spared |= self._courtesy.spare(admitted)
        return admitted, [one for one in admitted if one.id not in section.spared]

    async def _candidates(
        self, tx: Transaction, section: Section, most: int
    ) -> tuple[list[Candidate], int | None]:
        started = perf_counter()
        candidates, waiting = await lock_candidates(tx.session, most, section.admission.starved)
        stats.timing("scheduler.critical_section_query_duration", 1000 * (perf_counter() - started))
        candidates = [one for one in candidates if one.id not in section.spared]
        unread = {one.dag_id for one in candidates if one.limited} - section.seen_dags
        if not unread:
            return candidates, waiting
        hidden = await self._read_limits(tx, section, unread)
        return [one for one in candidates if one.dag_id not in hidden], waiting

    async def _read_limits(self, tx: Transaction, section: Section, dag_ids: set[str]) -> set[str]:
        """Enter the limits of *dag_ids*; return those whose candidates have to wait, or cannot run at all."""
        section.seen_dags |= dag_ids
        section.admission.count_active(await count_active(tx.session, dag_ids))
        waiting, absent = set(), set()
        for one in await load_limited(tx.session, dag_ids):
            compiled = self._plans.get(one.version)
            if compiled is not None:
                for task in compiled.plan.tasks:
                    limits = TaskLimits(task.max_active_per_dag, task.max_active_per_run)
                    section.admission.limits[one.dag_id, task.task_id] = limits
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

    def _commit_later(self, row: QueuedRow, executor: Any) -> None:
        # A task that resumes is queued once more for the same try. The event of its stay before may be looked
        # at between the commit and the hand-over: it must not be taken for the end of the stay to come.
        if isinstance(executor, ExecutorView):
            key = TaskInstanceKey(row.dag_id, row.task_id, row.run_id, row.try_number, row.map_index)
            executor.expect(key)
            self._expected.append((executor, key))
        self._doubts.add(row, executor)
        after_commit(lambda: self._committed.append(self._doubts.resolve(row.id)))

    def _cease_to_expect(self) -> None:
        """What was handed over by now is the executor's, the rest is known to be rolled back."""
        for executor, key in self._expected:
            executor.cease_to_expect(key)
        self._expected.clear()

    async def _hand_over(self) -> None:
        """Give the committed rows to their executors as workloads."""
        while self._committed:
            until = perf_counter() + SLICE
            while self._committed and perf_counter() < until:
                self._give()
            await asyncio.sleep(0)

    def _give(self) -> None:
        row, executor = self._committed.popleft()
        if row.run_state in ENDED:
            return
        if row.dag_version_id is None:
            log.warning(
                "TaskInstance %s does not have a dag_version_id set, cannot be enqueued. "
                "This would get unstuck and dag_version_id updated.",
                _described(row),
            )
            return
        try:
            workload = self._workloads.make(row, executor)
        except ValueError:
            # A row that makes no valid workload stays queued until the check for stuck tasks finds it.
            log.exception("TaskInstance %s cannot be handed to its executor", _described(row))
            return
        executor.queue_workload(workload, session=None)


def _described(row: QueuedRow) -> str:
    index = f"map_index={row.map_index} " if row.map_index != -1 else ""
    return f"<TaskInstance: {row.dag_id}.{row.task_id} {row.run_id} {index}[queued] ti_id={row.id}>"


def _report(section: Section) -> None:
    """Metrics and log lines of ``_executable_task_instances_to_queued``."""
    for note in section.admission.notes:
        log.log(note.level, note.text, *note.arguments)
    for pool, count in section.admission.starving.items():
        tags = {"pool_name": normalize_pool_name_for_stats(pool)}
        stats.gauge("pool.starving_tasks", count, tags=tags)
    stats.gauge("scheduler.tasks.starving", sum(section.admission.starving.values()))
    stats.gauge("scheduler.tasks.executable", len(section.queued))
    if section.queued and log.isEnabledFor(logging.INFO):
        log.info(
            "Setting the following tasks to queued state:\n%s",
            "\n".join(
                f"\t{_described(row)} (id={row.id}, try_number={row.try_number})" for row in section.queued
            ),
        )
    for row in section.queued:
        if row.end_date is None and row.scheduled_dttm is not None:
            stats.timing(
                "task.scheduled_duration",
                section.now - row.scheduled_dttm,
                tags={"dag_id": row.dag_id, "task_id": row.task_id, "queue": row.queue},
            )
