"""Executors are called on threads of their own, which some notice."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings

import pytest
from airflow.executors.base_executor import BaseExecutor

from async_scheduler.bridge.executor_ends import wait_for_ends
from async_scheduler.bridge.executor_port import ExecutorPort


async def test_celerys_current_app_is_the_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    """CeleryExecutor adopts by ``AsyncResult(id)``, which asks the current app: each thread has its own."""
    pytest.importorskip("airflow.providers.celery")
    monkeypatch.setenv("AIRFLOW__CELERY__BROKER_URL", "memory://")
    monkeypatch.setenv("AIRFLOW__CELERY__RESULT_BACKEND", "cache+memory://")
    with warnings.catch_warnings(action="ignore"):
        from airflow.providers.celery.executors.celery_executor import CeleryExecutor
        from celery.result import AsyncResult

        executor = CeleryExecutor()
    port = ExecutorPort(executor, wake=lambda: None)
    try:
        app = await asyncio.to_thread(port.call_and_wait, lambda: AsyncResult("x").app, "ask", 300.0)
        assert app is executor.celery_app
        assert app.conf.broker_url == "memory://"
    finally:
        port.close()


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
        assert "< end (test_threads.py:" in caplog.text
    finally:
        released.set()
        port.close()
