"""The async scheduler's job: starts executors and the event loop, runs an assembly in it, ends both."""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow import settings as airflow_settings
from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.configuration import conf
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.observability.metrics import stats_utils
from airflow.utils.session import NEW_SESSION, create_session, provide_session
from sqlalchemy.orm import configure_mappers

from async_scheduler.assembly import Assembly
from async_scheduler.bridge import executor_ends
from async_scheduler.database.connections import wait_for_sqlites_writer
from async_scheduler.database.opening import finds_pooler, refuse_second_scheduler
from async_scheduler.driver.dump import describe_tasks, describe_threads
from async_scheduler.driver.event_loop import LoopFactory, loop_factory
from async_scheduler.driver.supervisor import first_cause
from async_scheduler.measure import loop_lag, stepping
from async_scheduler.settings import Settings
from async_scheduler.store.assets import deactivate_orphaned
from async_scheduler.store.dialect import as_seen_here, build_statements
from async_scheduler.store.jobs import job_kind, renew_job
from async_scheduler.store.orphans import whole_instances

if TYPE_CHECKING:
    from async_scheduler.database.fence import Fence

log = logging.getLogger(__name__)

COLLECTOR_THRESHOLDS = (20_000, 20, 20)
"""New objects before the collector looks at the young ones, and looks before it goes on to the older ones."""


class AsyncSchedulerJobRunner(SchedulerJobRunner):  # type: ignore[misc]
    """Runs the scheduler's routines as coroutines; a drop-in for Airflow's ``SchedulerJobRunner``.

    The job type stays ``SchedulerJob``: health page, ``airflow jobs check`` and other schedulers see a
    scheduler like any other.

    :param settings: the ``[async_scheduler]`` section; read from Airflow's configuration when left out.
    :raises InvalidSetting: when that section holds a value that is not allowed.
    """

    executors: list[Any]
    executor: Any

    def __init__(self, *args: Any, settings: Settings | None = None, **kwargs: Any) -> None:
        self.async_settings = settings or Settings.from_airflow()
        super().__init__(*args, **kwargs)
        self._started: list[Any] = []
        self._signalled = False

    def _execute(self) -> int | None:
        """Run until a signal, the number of runs asked for, or an error that no retry mends.

        :raises AsyncSchedulerError: in the last case; the job is then marked failed.
        """
        os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"  # as upstream: secrets backends look at it
        log.info("Starting the async scheduler: mode %s", self.async_settings.mode)
        make_loop = self._loop_factory()
        # Before the executors fork their workers: those inherit handlers that let tasks finish.
        reset_signals = self.register_signals()
        try:
            self._open_database(make_loop)
            # All models are imported and mapped now, not at the first object, on the loop.
            configure_mappers()
            stats.initialize(
                factory=stats_utils.get_stats_factory(),
                export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
            )
            self._start_executors()
            if self.async_settings.algorithm == "redesigned":
                build_statements(as_seen_here(airflow_settings.engine.dialect))
            self._renew_job()
            _spare_the_collector()
            with asyncio.Runner(loop_factory=make_loop) as runner:
                fence = runner.run(self._run())
            with create_session() as session:
                fence.retire(session)  # Airflow's own write of the job's end does not look
            if airflow_settings.Session is not None:
                airflow_settings.Session.remove()
        finally:
            self._end_started_executors()
            reset_signals.close()
            log.info("Exited execute loop")
        return None

    @provide_session  # type: ignore[untyped-decorator]
    def adopt_or_reset_orphaned_tasks(self, *, session: Any = NEW_SESSION) -> int:
        """Do as Airflow's does, with one to three statements for each orphan instead of thirty."""
        with whole_instances(session):
            return int(super().adopt_or_reset_orphaned_tasks(session=session))

    @staticmethod
    def _orphan_unreferenced_assets(assets_query: Any, *, session: Any) -> None:
        if not getattr(session.get_bind().dialect, "is_mariadb", False):
            SchedulerJobRunner._orphan_unreferenced_assets(assets_query, session=session)
            return
        stats.gauge("asset.orphaned", deactivate_orphaned(session, assets_query))

    def _open_database(self, make_loop: LoopFactory) -> None:
        """Find out what the database is like, while nothing runs yet that would have to be ended.

        :raises AsyncSchedulerError: when it cannot be reached, or another scheduler works on it alone.
        """
        refuse_second_scheduler(self.job.id)
        wait_for_sqlites_writer(airflow_settings.engine)
        with asyncio.Runner(loop_factory=make_loop) as runner:
            pooled = runner.run(finds_pooler(self.async_settings.pool_timeout))
        if self.async_settings.pgbouncer == "auto":
            self.async_settings = replace(self.async_settings, pgbouncer="true" if pooled else "false")
        if self.async_settings.pgbouncer == "true":
            log.info("A pooler such as PgBouncer stands before the database: nothing is prepared by name")

    def _loop_factory(self) -> LoopFactory:
        """Return what makes the event loop; a trace by steps from the start needs one that can be timed."""
        if self.async_settings.trace_directory and self.async_settings.trace_level == "steps":
            return stepping.new_event_loop
        return loop_factory(self.async_settings.event_loop)

    def _start_executors(self) -> None:
        """Start the executors before the loop: workers they fork must inherit no live sockets."""
        if airflow_settings.engine is not None:
            airflow_settings.engine.dispose()  # and none of Airflow's own pool either
        for executor in self.executors:
            executor.job_id = self.job.id
            executor.callback_sink = DatabaseCallbackSink()
            self._started.append(executor)
            executor.start()

    def _renew_job(self) -> None:
        """Beat once before the loop: executors that start slowly must not make the scheduler look dead.

        A job that others have marked failed by now has queued nothing yet, so nobody has taken anything over.
        """
        now = timezone.utcnow()
        algorithm = "upstream" if self._multi_team else self.async_settings.algorithm
        # In the object too: a heartbeat writes what that holds.
        self.job.executor_class = job_kind(algorithm)
        with create_session() as session:
            renew_job(session, self.job.id, now, self.job.executor_class)
        self.job.latest_heartbeat = now

    def _end_started_executors(self) -> None:
        """End what the loop could not end because it never got so far; their workers would never end."""
        while self._started:
            executor = self._started.pop()
            # An executor is a plugin: that its end() fails must not keep the others from ending.
            try:
                executor_ends.end(executor)
            except Exception:
                log.exception("Exception when executing Executor.end on %s", executor)

    async def _run(self) -> Fence:
        real_executors = self.executors
        assembly = Assembly(self, self.async_settings)
        try:
            with assembly.upstream_hooks(), self._signals(assembly):
                async with assembly.secrets.in_use():
                    await self._run_and_end(assembly)
        finally:
            self.executors, self.executor = real_executors, real_executors[0]
            await assembly.close()
        return assembly.fence

    async def _run_and_end(self, assembly: Assembly) -> None:
        lag = loop_lag.watch(assembly.tracing.lag, interval=self.async_settings.loop_lag_interval)
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(lag, name="loop lag"),
                    group.create_task(assembly.tracing.run(), name="control"),
                ]
                try:
                    await assembly.tracing.begin()
                    await self._run_routines(assembly)
                finally:
                    self._started.clear()
                    await assembly.end_executors()
                    for task in beside:
                        task.cancel()
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None

    async def _run_routines(self, assembly: Assembly) -> None:
        if self.async_settings.mode == "sequential":
            await assembly.supervisor.run_sequentially(self._scheduler_idle_sleep_time)
        else:
            await assembly.supervisor.run_concurrently()

    @contextmanager
    def _signals(self, assembly: Assembly) -> Iterator[None]:
        """While the loop runs, signals are its own: the first stops, the second ends at once.

        Afterwards they are Airflow's again: while threads and connections are let go of, none may kill.
        """
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: lambda: self._on_stop_signal(assembly, signal.SIGTERM),
            signal.SIGINT: lambda: self._on_stop_signal(assembly, signal.SIGINT),
            signal.SIGUSR2: self._dump,
        }
        before = {number: signal.getsignal(number) for number in handlers}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)  # leaves the default: to end the process
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _on_stop_signal(self, assembly: Assembly, number: signal.Signals) -> None:
        if not self._signalled:
            # It may be stopping already, after --num-runs, and wait for its executors' tasks.
            self._signalled = True
            log.info("Exiting gracefully upon receiving signal %s", number.name)
            assembly.supervisor.stop()
            return
        log.warning("Received %s again: ending at once", number.name)
        for child in multiprocessing.active_children():
            child.kill()  # workers do not end at SIGTERM: they let tasks finish
        logging.shutdown()
        os._exit(1)

    def _dump(self) -> None:
        log.info("%s\nSIGUSR2 received, printing debug\n%s", "-" * 80, "-" * 80)
        for text in (*describe_tasks(), *describe_threads()):
            log.info("%s", text)
        for executor in self.executors:
            log.info("Debug dump for the executor %s follows with its next beat", executor)
            executor.debug_dump()


# Airflow builds the metric of schedulers found dead, "schedulerjobrunner_end", from the runner's class.
AsyncSchedulerJobRunner.__name__ = SchedulerJobRunner.__name__


def _spare_the_collector() -> None:
    """Take all that was imported out of the garbage collector's sight, and let it look less often.

    A pass makes thousands of rows that die young. Each few hundred of them would set off a collection, and
    one that looks at all of Airflow's modules stops the loop for a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
