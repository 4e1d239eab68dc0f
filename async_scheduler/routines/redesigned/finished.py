"""The line about each task instance that an executor is done with, which tools parse."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.configuration import conf

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from airflow.models.taskinstancekey import TaskInstanceKey

    from async_scheduler.store.events import ReportedRow

log = logging.getLogger("airflow.jobs.scheduler_job_runner.SchedulerJobRunner")
"""Airflow's own logger for these lines."""

FINISHED_LINE = (
    "TaskInstance Finished: dag_id=%s, task_id=%s, run_id=%s, map_index=%s, ti_id=%s, "
    "run_start_date=%s, run_end_date=%s, "
    "run_duration=%s, state=%s, executor=%s, executor_state=%s, try_number=%s, max_tries=%s, "
    "pool=%s, queue=%s, priority_weight=%s, operator=%s, queued_dttm=%s, scheduled_dttm=%s,"
    "queued_by_job_id=%s, pid=%s"
)
ALONE = 8
"""So many that are reported together are a log record each, as Airflow writes them. More share records: what
Airflow's logging makes of a record takes six times as long as the line itself."""
TOGETHER = 64
"""How many lines a record holds at most: a slice of the event loop's time."""


class Ended(NamedTuple):
    """A task instance an executor is done with: its row, and what the executor said."""

    row: ReportedRow
    key: TaskInstanceKey
    state: Any


class FinishedLog:
    """Logs what ``SchedulerJobRunner.process_executor_events`` logs of events that agree with the database.

    :param executor: named in each line.
    """

    def __init__(self, executor: object, job_id: int) -> None:
        self._executor = executor
        self._job_id = job_id
        self._one_object_each = conf.getboolean("logging", "json_logs")

    async def write(self, ended: Sequence[Ended], went_on: Collection[TaskInstanceKey] = ()) -> None:
        """Log them in slices of the loop's time.

        :param went_on: those whose next try may be of this scheduler's making by now, which is no surprise.
        """
        for one in ended:
            if one.row.try_number != one.key.try_number and one.key not in went_on:
                self._warn(one)
        if not log.isEnabledFor(logging.INFO):
            return
        together = 1 if self._one_object_each or len(ended) <= ALONE else TOGETHER
        executor = str(self._executor)
        for begin in range(0, len(ended), together):
            lines = [_values(one, executor) for one in ended[begin : begin + together]]
            if len(lines) == 1:
                log.info(FINISHED_LINE, *lines[0])
            else:
                log.info("%s", "\n".join(FINISHED_LINE % line for line in lines))
            await asyncio.sleep(0)

    def _warn(self, ended: Ended) -> None:
        row, key = ended.row, ended.key
        log.warning(
            "TI try_number mismatch: db_try_number=%d event_try_number=%d ti=%s state=%s job_id=%s. "
            "Another scheduler may have already modified this TI.",
            row.try_number,
            key.try_number,
            _described(row),
            row.state,
            self._job_id,
        )


def _values(ended: Ended, executor: str) -> tuple[Any, ...]:
    row = ended.row
    return (
        row.dag_id,
        row.task_id,
        row.run_id,
        row.map_index,
        row.id,
        row.start_date,
        row.end_date,
        row.duration,
        row.state,
        executor,
        ended.state,
        ended.key.try_number,
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
