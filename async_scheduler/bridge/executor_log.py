"""What executors log on each heartbeat, said now and then.

The stock scheduler sends a heartbeat once in a loop; ours does several times a second, and an executor that
is full logs that on each of them, see ``BaseExecutor._emit_metrics``.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor

FULL = "Executor parallelism limit reached. 0 open slots."
SILENCE = 30.0
"""Seconds for which the line is not repeated."""


class SparingLog:
    """An executor's logger that lets the line :data:`FULL` pass at most once in :data:`SILENCE` seconds."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._silent_until = 0.0

    def info(self, event: Any, *arguments: Any, **values: Any) -> Any:
        """Log *event*, unless it is the line that was logged a moment ago."""
        if event == FULL:
            now = monotonic()
            if now < self._silent_until:
                return None
            self._silent_until = now + SILENCE
        return self._log.info(event, *arguments, **values)

    def __getattr__(self, name: str) -> Any:
        if name == "_log":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._log, name)


def log_sparingly(executor: BaseExecutor) -> None:
    """Let *executor* say that it is full once in a while, not on each heartbeat."""
    executor._log = SparingLog(executor.log)
