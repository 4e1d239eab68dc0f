"""What Airflow's scheduling code sees as an executor while it runs inside a transaction.

Reads go to the executor itself. Whatever would hand it work or change its state waits for the commit and
runs on the executor's own thread.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from async_scheduler.database.transaction import after_commit
from async_scheduler.errors import ExecutorUnresponsive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskinstancekey import TaskInstanceKey
    from sqlalchemy.orm import Session

    from async_scheduler.bridge.executor_port import Events, ExecutorPort


log = logging.getLogger(__name__)


class ExecutorView:
    """A stand-in for one ``BaseExecutor``; everything not named here is the executor's own."""

    def __init__(self, port: ExecutorPort, call_timeout: float) -> None:
        self._port = port
        self._call_timeout = call_timeout
        self._undelivered: Events = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port.executor, name)

    def __repr__(self) -> str:
        return repr(self._port.executor)

    def queue_workload(self, workload: Any, session: Session | None = None) -> None:
        """Hand *workload* over once the transaction that queued its task has committed.

        Until then it is expected; a rollback leaves it so, which does no harm: its task is queued once more.
        """
        self._port.expect(workload.key)
        after_commit(lambda: self._port.accept(workload))

    def expect(self, key: TaskInstanceKey, run: int) -> None:
        """Count the task instance as the executor's, whose workload will come after the commit under way.

        *run* is the id of its dag run.
        """
        self._port.expect(key, run)

    def cease_to_expect(self, key: TaskInstanceKey) -> None:
        """Do so no longer: its workload came, or never will."""
        self._port.cease_to_expect(key)

    @property
    def slots_available(self) -> int:
        """Slots left when what is accepted but not yet handed over is counted."""
        return int(self._port.executor.slots_available) - self._port.waiting

    @property
    def slots_occupied(self) -> int:
        """Slots taken, those of workloads not yet handed over included."""
        return int(self._port.executor.slots_occupied) + self._port.waiting

    def has_task(self, task_instance: TaskInstance) -> bool:
        """Whether the executor has the task, or got it and has not reported its end.

        Some executors forget a task when they hand it to a worker; an event of an earlier stay there, such
        as the one before a deferral, must not be taken for the end of the present one.
        """
        return self._port.awaits(task_instance.key) or bool(self._port.executor.has_task(task_instance))

    def get_event_buffer(self, dag_ids: Sequence[str] | None = None) -> Events:
        """Return the events given by :meth:`deliver`; the caller removes those it has handled."""
        return self._undelivered

    def deliver(self, events: Events) -> None:
        """Let the next :meth:`get_event_buffer` return *events*."""
        self._undelivered = events

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """As ``BaseExecutor.change_state``, after the commit."""
        self._later("change_state", key, state, info, remove_running)

    def fail(self, key: Any, info: Any = None) -> None:
        """As ``BaseExecutor.fail``, after the commit."""
        self._later("fail", key, info)

    def fail_connection_test(self, key: Any) -> None:
        """As ``BaseExecutor.fail_connection_test``, after the commit."""
        after_commit(lambda: self._port.forget(key))
        self._later("fail_connection_test", key)

    def debug_dump(self) -> None:
        """As ``BaseExecutor.debug_dump``, on the executor's thread."""
        self._later("debug_dump")

    def _later(self, method: str, *args: Any) -> None:
        executor = self._port.executor
        after_commit(lambda: self._port.call_later(lambda: getattr(executor, method)(*args)))

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Ask the executor to adopt *tis* and wait for its answer, the instances it did not take.

        :raises ExecutorUnresponsive: when it does not answer in time.
        """
        return self._wait_for("try_adopt_task_instances", tis)  # type: ignore[no-any-return]

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Ask the executor to forget *ti* and wait until it has.

        :raises NotImplementedError: when the executor cannot, or does not answer in time: upstream then goes
            on with the next executor.
        """
        executor = self._port.executor

        def revoke() -> None:
            executor.revoke_task(ti=ti)
            self._port.forget(ti.key)  # before the next beat could hand it over

        try:
            self._port.call_and_wait(revoke, "revoke_task", self._call_timeout)
        except ExecutorUnresponsive as error:
            log.warning("%s; its stuck tasks are looked at again later", error)
            raise NotImplementedError from error

    def _wait_for(self, method: str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self._port.executor, method)
        return self._port.call_and_wait(lambda: function(*args, **kwargs), method, self._call_timeout)
