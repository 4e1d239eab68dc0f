"""Airflow's LocalExecutor, which also tells the harness that it is up and blocks as long as it is told to."""

from __future__ import annotations

import os
import time

from airflow.executors.local_executor import LocalExecutor

from poc_bench.executor.wire import HEARTBEAT_SECONDS, announce_ready


class MeasuredLocalExecutor(LocalExecutor):  # type: ignore[misc]  # Airflow is untyped here
    """Runs real task processes."""

    _announced = False

    def heartbeat(self) -> None:
        """Block as the workload wants, then do what the LocalExecutor does."""
        if not self._announced:
            self._announced = True
            announce_ready()
        elif blocks_for := float(os.environ[HEARTBEAT_SECONDS]):
            time.sleep(blocks_for)
        super().heartbeat()
