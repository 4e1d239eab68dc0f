"""An executor whose workers are one simulator process, so that the scheduler is what is measured.

Workloads leave through a unix socket, as they would through a broker; the simulator writes the states of
task instances and tells when a worker process would have ended. ``POC_BENCH_SOCKET`` holds the socket's path.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.workloads import ExecuteTask

from poc_bench.executor.wire import (
    HAS_TO_BE_ASKED,
    HEARTBEAT_SECONDS,
    SOCKET,
    Ended,
    Lines,
    Submitted,
    announce_ready,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.taskinstancekey import TaskInstanceKey


def _map_index(value: int | None) -> int:
    return -1 if value is None else value


class BenchExecutor(BaseExecutor):  # type: ignore[misc]  # Airflow is untyped here
    """Hands workloads to the worker simulator and reports what came of them from ``sync()``."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._keys: dict[str, TaskInstanceKey] = {}
        self._blocks_for = float(os.environ.get(HEARTBEAT_SECONDS, "0"))
        self._has_to_be_asked = bool(os.environ.get(HAS_TO_BE_ASKED))
        self._announced = False

    def start(self) -> None:
        """Connect to the worker simulator."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.environ[SOCKET])
        self._socket.setblocking(False)
        self._lines = Lines(self._socket)

    def heartbeat(self) -> None:
        """Block as long as the workload wants an executor to block, then hand over and collect."""
        if not self._announced:
            self._announced = True
            announce_ready()
        elif self._blocks_for:
            time.sleep(self._blocks_for)
        super().heartbeat()

    def _process_workloads(self, workload_items: Sequence[ExecutorWorkload]) -> None:
        batch = []
        for workload in workload_items:
            if not isinstance(workload, ExecuteTask):
                raise TypeError(f"The bench executor runs tasks only, not {type(workload).__name__}")
            ti = workload.ti
            self.queued_tasks.pop(ti.key, None)
            self.running.add(ti.key)
            self._keys[str(ti.id)] = ti.key
            batch.append(
                Submitted(
                    str(ti.id), ti.dag_id, ti.task_id, ti.run_id, _map_index(ti.map_index), ti.try_number
                )
            )
        self._send(encode(batch))

    def _send(self, data: bytes) -> None:
        self._socket.setblocking(True)
        self._socket.sendall(data)
        self._socket.setblocking(False)

    def sync(self) -> None:
        """Report every worker process that has ended since the last call."""
        for batch in self._lines.read():
            for ended in batch:
                task_id, accepted = Ended(*ended)
                key = self._keys.pop(task_id)
                if accepted:
                    self.success(key)
                else:
                    self.fail(key)

    def readable_with_news(self) -> list[socket.socket]:
        """Return the socket by which the simulator tells what has ended, nothing where it is to be asked."""
        return [] if self._has_to_be_asked else [self._socket]

    def end(self) -> None:
        """Leave the workers to themselves."""
        self._socket.close()

    def terminate(self) -> None:
        """Leave the workers to themselves."""
        self._socket.close()
