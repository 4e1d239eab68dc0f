"""An executor that runs a task by writing its end state, as a worker does through the execution API."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import update

RUN_LOG = "TEST_EXECUTOR_RUN_LOG"

Script = Callable[[TaskInstanceKey], TaskInstanceState | None]
"""Says how a task ends; None leaves it running."""


def always_succeed(_key: TaskInstanceKey) -> TaskInstanceState | None:
    """Every task succeeds."""
    return TaskInstanceState.SUCCESS


class InstantExecutor(BaseExecutor):  # type: ignore[misc]
    """Ends each task at the heartbeat after the one that took it over."""

    script: Script = staticmethod(always_succeed)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.runs: Counter[TaskInstanceKey] = Counter()
        self.unqueued: list[TaskInstanceKey] = []
        self.ended = False

    def start(self) -> None:
        """Nothing to start."""

    def _process_workloads(self, workload_items: Any) -> None:
        for workload in workload_items:
            key = workload.ti.key
            self.queued_tasks.pop(key, None)
            self.running.add(key)
            self.runs[key] += 1
            _log_run(key)
            self._run(key, workload.ti.id)

    def _run(self, key: TaskInstanceKey, ti_id: Any) -> None:
        state = type(self).script(key)
        now = datetime.now(UTC)
        with create_session() as session:
            started = session.execute(
                update(TaskInstance)
                .where(TaskInstance.id == ti_id, TaskInstance.state == TaskInstanceState.QUEUED)
                .values(state=state or TaskInstanceState.RUNNING, start_date=now, end_date=now, pid=1)
            )
            if not started.rowcount:
                # What a worker sees when it is given a task before the queuing transaction committed.
                self.unqueued.append(key)
        if state is not None:
            self.change_state(key, state)

    def end(self) -> None:
        """Nothing to wait for."""
        self.ended = True


def _log_run(key: TaskInstanceKey) -> None:
    """Append the run to the file that a test of whole processes reads, if it named one."""
    if path := os.environ.get(RUN_LOG):
        with open(path, "a") as file:
            file.write(f"{os.getpid()} {key.dag_id} {key.run_id} {key.task_id} {key.try_number}\n")
