"""Runs the scheduler, ours or the stock one, inside a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.jobs.job import Job, JobState, run_job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.utils.session import create_session
from sqlalchemy import update

from async_scheduler.assembly import Assembly
from async_scheduler.runner import AsyncSchedulerJobRunner
from async_scheduler.settings import Settings

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor

FAST = Settings(algorithm="upstream", event_loop="asyncio", executor_poll_interval=0.02, shutdown_grace=5.0)
"""Settings of a test's scheduler unless it needs others: Airflow's own code decides."""


def run_until_idle(
    executors: list[BaseExecutor], settings: Settings = FAST, *, idle_rounds: int = 3
) -> AsyncSchedulerJobRunner:
    """Run the async scheduler in this thread until nothing has happened for some rounds."""
    runner = AsyncSchedulerJobRunner(
        Job(),
        num_runs=idle_rounds,
        only_idle=True,
        scheduler_idle_sleep_time=0.1,
        executors=executors,
        settings=settings,
    )
    run_job(runner.job, runner._execute)
    return runner


def run_stock_until_idle(executors: list[BaseExecutor], *, idle_rounds: int = 3) -> SchedulerJobRunner:
    """Run Airflow's own scheduler in this thread until nothing has happened for some loops."""
    runner = SchedulerJobRunner(
        Job(), num_runs=idle_rounds, only_idle=True, scheduler_idle_sleep_time=0.1, executors=executors
    )
    run_job(runner.job, runner._execute)
    return runner


@asynccontextmanager
async def assembled(*executors: BaseExecutor, settings: Settings = FAST) -> AsyncIterator[Assembly]:
    """Yield a scheduler put together with its job registered and nothing running."""
    runner: Any = AsyncSchedulerJobRunner(Job(), executors=list(executors), settings=settings)
    with create_session() as session:
        runner.job.prepare_for_execution(session=session)
    for executor in executors:
        executor.job_id = runner.job.id
        executor.callback_sink = DatabaseCallbackSink()
        executor.start()
    assembly = Assembly(runner, settings)
    assembly.fence.lease = assembly.fence._threshold  # no heartbeat runs here that would renew it
    try:
        with assembly.upstream_hooks():
            yield assembly
    finally:
        await assembly.close()
        # Gone: the schedulers that follow must not take it for one that works beside them.
        with create_session() as session:
            ended = update(Job).where(Job.id == runner.job.id, Job.state == JobState.RUNNING)
            session.execute(ended.values(state=JobState.SUCCESS))
        assert assembly.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
