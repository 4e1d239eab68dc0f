"""The first signal lets the scheduler finish, whatever else has made it stop; the second ends it."""

from __future__ import annotations

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.jobs.job import Job

from async_scheduler.driver.supervisor import Supervisor
from async_scheduler.runner import AsyncSchedulerJobRunner
from async_scheduler.settings import Settings
from tests.support.executor import InstantExecutor


def _scheduler() -> tuple[AsyncSchedulerJobRunner, Any]:
    scheduler = AsyncSchedulerJobRunner(Job(), executors=[InstantExecutor()], settings=Settings())
    return scheduler, SimpleNamespace(supervisor=Supervisor([], 1.0))


async def test_signals_are_airflows_again_when_the_loop_has_done() -> None:
    scheduler, assembly = _scheduler()
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    registered = scheduler.register_signals()
    try:
        before = [signal.getsignal(number) for number in numbers]
        with scheduler._signals(assembly):
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(assembly.supervisor._stop.wait(), 60)
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        registered.close()


@pytest.mark.parametrize("stopping", [False, True])
async def test_only_a_second_signal_ends_it_at_once(monkeypatch: pytest.MonkeyPatch, stopping: bool) -> None:
    """It stops by itself after ``--num-runs``, and may then wait long for its executors' tasks."""
    codes: list[int] = []
    monkeypatch.setattr("os._exit", codes.append)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    monkeypatch.setattr("multiprocessing.active_children", list)
    scheduler, assembly = _scheduler()
    if stopping:
        assembly.supervisor.stop()
    scheduler._on_stop_signal(assembly, signal.SIGTERM)
    assert codes == []
    assert assembly.supervisor.stopping
    scheduler._on_stop_signal(assembly, signal.SIGTERM)
    assert codes == [1]
