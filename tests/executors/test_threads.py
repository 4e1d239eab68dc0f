"""Executors are called on threads of their own, which some notice."""

from __future__ import annotations

import asyncio
import warnings

import pytest

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
