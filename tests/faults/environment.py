"""The environment of a field's processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from poc_bench.environment import FIXED
from poc_bench.executor import wire
from tests.faults.schedulers import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from poc_bench.database.address import Address

TUNED = {"AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "256"}
"""With this the stock scheduler works faster than as it comes."""
EXECUTOR = "tests.faults.executor.FaultExecutor"
QUICK_TIMES = {
    "SCHEDULER_HEARTBEAT_SEC": "1",
    "SCHEDULER_HEALTH_CHECK_THRESHOLD": "6",
    "ORPHANED_TASKS_CHECK_INTERVAL": "1",
    "SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "TRIGGER_TIMEOUT_CHECK_INTERVAL": "1",
    "TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "1",
    "PARSING_CLEANUP_INTERVAL": "1",
    "POOL_METRICS_INTERVAL": "1",
}
"""``[scheduler]`` options of a field: what takes minutes in a cluster takes seconds here."""


def environment(folder: Path, address: Address, keys: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the field's Airflow processes."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW_")}
    times = {f"AIRFLOW__SCHEDULER__{name}": value for name, value in QUICK_TIMES.items()}
    return {
        **inherited,
        **FIXED,
        **keys,
        **times,
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address.sync_url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": address.async_url,
        "AIRFLOW__CORE__EXECUTOR": EXECUTOR,
        "AIRFLOW__CONNECTION_TEST__REAPER_INTERVAL": "1",
        "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL": "1",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "PYTHONPATH": str(ROOT),
        wire.HEARTBEAT_SECONDS: "0",
        wire.READY_DIRECTORY: str(folder / "ready"),
        wire.SOCKET: str(folder / "socket"),
    }
