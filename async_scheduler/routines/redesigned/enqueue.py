"""The critical section: queues scheduled task instances within pools, limits and executor slots."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from datetime import timedelta
from time import perf_counter
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow.models.pool import normalize_pool_name_for_stats
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy.exc import DBAPIError

from async_scheduler.bridge.executor_view import ExecutorView
from async_scheduler.database.faults import Fault, classify
from async_scheduler.database.transaction import Sessions, Transaction, after_commit, transaction
from async_scheduler.driver.routine import NOTHING, Outcome
from async_scheduler.routines.redesigned.doubts import Doubts, Queued
from async_scheduler.routines.redesigned.peers import Courtesy, Peers
from async_scheduler.routines.redesigned.section import ENDED, CriticalSection, Section
from async_scheduler.routines.redesigned.workloads import WorkloadFactory

if TYPE_CHECKING:
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.plans.cache import Plans
    from async_scheduler.store.scheduled import QueuedRow

log = logging.getLogger(__name__)

SLICE = 0.005
"""Seconds of work at a stretch before the loop gets its turn."""
DOUBT_LOOK_AGAIN = 1.0
"""Seconds after which it is asked again what became of a commit without an answer."""


class EnqueueTaskInstances:
    """Mirrors the end of ``SchedulerJobRunner._do_scheduling``.

    Locks: transaction advisory lock (tried; where only async schedulers are, then waited for, briefly), all
    of ``slot_pool`` NO KEY UPDATE NOWAIT, ``task_instance`` NO KEY UPDATE SKIP LOCKED, until the commit.
    Workloads are built, signed and handed over after it.

    :param batch: how many task instances one section queues at most.
    :param peers: the other schedulers, to whom task instances of their runs are left.
    :param lines_up: whether a section waits for its turn beside other async schedulers.
    """

    name = "enqueue"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        plans: Plans,
        batch: int,
        peers: Peers | None = None,
        lines_up: bool = True,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._plans = plans
        self._batch = batch
        self._courtesy = Courtesy(peers or Peers(), lines_up=lines_up)
        self._critical = CriticalSection(scheduler, plans, self._courtesy)
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
        section = await self._enter(most)
        if section is None or section.entry.waited:
            log.debug("Critical section lock held by another scheduler")
            stats.incr("scheduler.critical_section_busy")
        if section is None:
            return Outcome({"busy": 1}, due_in=self._courtesy.after_taken())
        seconds = perf_counter() - section.entry.at
        stats.timing("scheduler.critical_section_duration", timedelta(seconds=seconds))
        self._courtesy.after_section(seconds)
        await self._hand_over()
        _report(section)
        self.backlog = section.left_over
        if section.unplanned:
            await self._plans.fetch(self._sessions, section.unplanned)
        count = len(section.queued)
        return Outcome(
            _counts(section),
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
        entry = await self._critical.enter(tx)
        if entry is None:
            return None
        section = await self._critical.fill(tx, entry, most)
        for row in section.queued:
            self._commit_later(row, section.executors[row.executor])
        return section

    def _commit_later(self, row: QueuedRow, executor: Any) -> None:
        # A task that resumes is queued once more for the same try. The event of its stay before may be looked
        # at between the commit and the hand-over: it must not be taken for the end of the stay to come.
        if isinstance(executor, ExecutorView):
            key = TaskInstanceKey(row.dag_id, row.task_id, row.run_id, row.try_number, row.map_index)
            executor.expect(key, row.run)
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


def _counts(section: Section) -> dict[str, int]:
    counts = {"queued": len(section.queued), "spared": section.spared, "waited": int(section.entry.waited)}
    return {name: count for name, count in counts.items() if count or name == "queued"}


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
