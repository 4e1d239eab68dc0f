"""A full executor is named now and then, and everything else it logs passes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock, call

from airflow.executors.base_executor import BaseExecutor

from async_scheduler.bridge import executor_log
from async_scheduler.bridge.executor_log import FULL, SparingLog, log_sparingly

if TYPE_CHECKING:
    import pytest


def test_a_full_executor_says_so_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(executor_log, "monotonic", lambda: now)
    log: Any = Mock()
    executor = BaseExecutor(parallelism=1)
    executor._log = log
    executor.running = {"a task"}
    log_sparingly(executor)
    for _ in range(3):
        executor.heartbeat()
    assert log.info.mock_calls == [call(FULL)]
    now += executor_log.SILENCE
    executor.heartbeat()
    executor.log.info("%s and %s", "this", "that")
    executor.log.warning(FULL)
    assert log.info.mock_calls == [call(FULL), call(FULL), call("%s and %s", "this", "that")]
    assert log.warning.mock_calls == [call(FULL)]


def test_a_copy_can_be_made() -> None:
    assert isinstance(copy.copy(SparingLog(None)), SparingLog)
