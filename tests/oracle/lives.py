"""Leads a story under either scheduler, from rest to rest, and tells what each rest looks like.

Nothing happens in a story but at rest: when the scheduler has done all it can while workers and users do
nothing. Between two rests both see the same changes at once, so that the order of their passes cannot tell:
each round of ours equals one pass of Airflow's. Airflow's loop is taken apart to that end: its executor is
full until the runs are at rest, then its critical section queues what there is room for – as with a second
scheduler that holds the section meanwhile.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.jobs.job import Job, JobState
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.utils.session import create_session
from sqlalchemy import update

from tests.oracle.airflow import ordered_dependencies
from tests.oracle.pictures import any_scheduled, fingerprint
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from async_scheduler.assembly import Assembly
    from tests.oracle.workers import HeldExecutor

MOST_TURNS = 120
REDESIGNED = replace(FAST, algorithm="redesigned", runs_per_visit=1, visits_at_once=2)
"""As few runs in a transaction as can be, so that two transactions visit at the same time."""


class Stock:
    """Airflow's own scheduler, its loop taken apart."""

    def __init__(self, executor: HeldExecutor, order: Sequence[str]) -> None:
        self._executor = executor
        self._runner: Any = SchedulerJobRunner(Job(), executors=[executor])
        ordered_dependencies(self._runner.scheduler_dag_bag, order)
        with create_session() as session:
            self._runner.job.prepare_for_execution(session=session)
        executor.job_id = self._runner.job.id
        executor.callback_sink = DatabaseCallbackSink()

    def rest(self) -> None:
        """Let it do all it can."""
        for _ in range(MOST_TURNS):
            self._settle()
            self._queue()
            if not self._hear():
                return
        raise AssertionError("the stock scheduler does not come to rest")

    def _settle(self) -> None:
        self._executor.full = True
        before = fingerprint()
        for _ in range(MOST_TURNS):
            self._pass()
            now = fingerprint()
            if now == before:
                return
            before = now
        raise AssertionError("the stock scheduler's runs do not come to rest")

    def _queue(self) -> None:
        self._executor.full = False
        while any_scheduled():
            with create_session() as session:
                if not self._runner._critical_section_enqueue_task_instances(session=session):
                    return

    def _pass(self) -> None:
        with create_session() as session:
            self._runner._do_scheduling(session)

    def _hear(self) -> bool:
        """Let the executor speak; return whether it had anything to say."""
        self._executor.heartbeat()
        if not self._executor.event_buffer:
            return False
        with create_session() as session:
            self._runner._process_executor_events(executor=self._executor, session=session)
        return True


class Redesigned:
    """The redesigned stages, each in its turn."""

    def __init__(self, executor: HeldExecutor, order: Sequence[str], loop: asyncio.Runner) -> None:
        self._loop = loop
        # One scheduler leads a story: those that led others before, Airflow's among them, are not beside it.
        with create_session() as session:
            session.execute(update(Job).where(Job.state == JobState.RUNNING).values(state=JobState.SUCCESS))
        self._opened = assembled(executor, settings=REDESIGNED)
        self._assembly: Assembly = loop.run(self._opened.__aenter__())
        self._executor_routine = f"executor:{type(executor).__name__}"
        # No heartbeat runs here that would keep the fence open for longer than half a minute.
        now = self._assembly.fence._clock()
        self._assembly.fence._clock = lambda: now
        ordered_dependencies(self._assembly._scheduler.scheduler_dag_bag, order)

    def close(self) -> None:
        """Let go of its connections."""
        self._loop.run(self._opened.__aexit__(None, None, None))

    def rest(self) -> None:
        """Let it do all it can."""
        self._loop.run(self._rest())

    def during(self, work: Callable[[Assembly], Coroutine[Any, Any, None]]) -> None:
        """Do *work* on its loop."""
        self._loop.run(work(self._assembly))

    async def _rest(self) -> None:
        for _ in range(MOST_TURNS):
            await self._settle()
            await self._until_quiet("enqueue")
            outcome = await self._once(self._executor_routine)
            if not outcome.counts["events"]:
                return
        raise AssertionError("the redesigned stages do not come to rest")

    async def _settle(self) -> None:
        for _ in range(MOST_TURNS):
            progressed = False
            for stage in ("create", "start", "sweep", "sweep"):  # a change may be left to the second one
                progressed |= await self._until_quiet(stage)
            progressed |= await self._until_quiet("schedule")
            if not progressed:
                return
        raise AssertionError("the redesigned stages do not come to rest")

    async def _until_quiet(self, stage: str) -> bool:
        progressed = False
        for _ in range(MOST_TURNS):
            outcome = await self._once(stage)
            progressed |= outcome.progressed
            if stage == "sweep" or not (outcome.progressed or outcome.more):
                return progressed and stage != "sweep"
        raise AssertionError(f"{stage} does not come to rest")

    async def _once(self, stage: str) -> Any:
        return await self._assembly.supervisor.drivers[stage].routine.run_once()
