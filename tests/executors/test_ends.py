"""Executors that are long in ending, and one that would never come to an end."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import threading
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from airflow.executors.base_executor import BaseExecutor
from airflow.executors.local_executor import LocalExecutor

from async_scheduler.bridge.executor_ends import wait_for_ends
from async_scheduler.bridge.executor_port import ExecutorPort

if TYPE_CHECKING:
    import pytest


async def test_an_executor_that_is_long_in_ending_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    class Slow(BaseExecutor):  # type: ignore[misc]
        def end(self) -> None:
            released.wait()

    port = ExecutorPort(Slow(), wake=lambda: None)
    try:
        with caplog.at_level(logging.INFO):
            async with asyncio.TaskGroup() as group:
                ending = group.create_task(port.end(patience=300.0), name="end")
                telling = group.create_task(wait_for_ends({ending: port}, every=0.01), name="tell")
                while "is in wait (threading.py:" not in caplog.text:  # noqa: ASYNC110 (a log line)
                    await asyncio.sleep(0.01)
                released.set()
                await telling
        assert ending.done()
        assert "Slow: 0 workloads without an end; it is in wait (threading.py:" in caplog.text
        assert "< end (test_ends.py:" in caplog.text
    finally:
        released.set()
        port.close()


async def test_a_local_worker_that_leaves_early_leaves_no_other_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message to go home is taken by a worker not looked at yet: nobody would send another."""
    executor = LocalExecutor(parallelism=1)
    executor.start()
    (quick,) = executor.workers.values()
    await takes_what_comes_next(executor)
    executor._spawn_worker()
    slow = next(worker for worker in executor.workers.values() if worker is not quick)
    executor.workers = {slow.pid: slow, quick.pid: quick}
    is_alive = BaseProcess.is_alive

    def look(process: BaseProcess) -> bool:
        if process is quick:
            quick.join()
        return bool(is_alive(process))

    monkeypatch.setattr(BaseProcess, "is_alive", look)
    port = ExecutorPort(executor, wake=lambda: None)
    try:
        async with asyncio.timeout(300):
            await port.end(patience=300.0)
    finally:
        port.close()
        monkeypatch.undo()
        for child in multiprocessing.active_children():
            child.kill()


async def takes_what_comes_next(executor: LocalExecutor) -> None:
    """Wait until the only worker waits for a message: it has the queue's lock meanwhile."""
    lock = executor.activity_queue._rlock
    while lock.acquire(block=False):
        lock.release()
        await asyncio.sleep(0.01)
