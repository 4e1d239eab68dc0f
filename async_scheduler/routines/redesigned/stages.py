"""The redesigned stages and what they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.configuration import conf
from airflow.jobs.scheduler_job_runner import SCHEDULER_DAG_CACHE_SIZE

from async_scheduler.plans.cache import Plans
from async_scheduler.routines.redesigned.create import CreateDagRuns, LookUpAhead
from async_scheduler.routines.redesigned.dirty import DirtyRuns
from async_scheduler.routines.redesigned.enqueue import EnqueueTaskInstances
from async_scheduler.routines.redesigned.events import RunExecutorInSets
from async_scheduler.routines.redesigned.peers import Peers
from async_scheduler.routines.redesigned.probe import Probe
from async_scheduler.routines.redesigned.schedule import Lane, ScheduleTaskInstances
from async_scheduler.routines.redesigned.start import StartDagRuns
from async_scheduler.routines.redesigned.sweep import Sweep
from async_scheduler.routines.redesigned.unlocked import UnlockedVisits

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.bridge.executor_port import ExecutorPort
    from async_scheduler.bridge.executor_view import ExecutorView
    from async_scheduler.database.fence import Fence
    from async_scheduler.database.transaction import Sessions
    from async_scheduler.settings import Settings

ALIVE_FOR_BEATS = 3
"""Another scheduler counts as alive while it has missed fewer heartbeats than this."""

NOTHING_RUNS_EVERY = 10.0
"""Seconds between two sweeps while no run is running and the probe looks whether one is again."""


class RedesignedStages:
    """Makes the stages of one scheduler; all of them share the dirty runs and the compiled dags.

    :param new_looks: makes the sessions of one routine's transactions that only read.
    :param new_kept: makes sessions that commit each statement by themselves, for one lane, where that can be.
    :param wake: called with the names of routines that have something to do.
    :param probed: whether the probe will run.
    """

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        new_looks: Callable[[], Sessions],
        new_kept: Callable[[], Sessions | None],
        settings: Settings,
        fence: Fence,
        wake: Callable[[tuple[str, ...]], None] = lambda _: None,
        *,
        probed: bool = True,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._new_looks = new_looks
        self._settings = settings
        self._wake = wake
        self.dirty = DirtyRuns()
        self.peers = Peers(scheduler.job.id)
        revalidate_after = conf.getfloat("core", "min_serialized_dag_update_interval")
        self.plans = Plans(
            scheduler.scheduler_dag_bag,
            max(SCHEDULER_DAG_CACHE_SIZE, settings.dags_at_once),
            revalidate_after,
        )
        # The sweep also finds dag versions that were rewritten.
        rest = max(min(NOTHING_RUNS_EVERY, revalidate_after), settings.sweep_interval)
        alive_within = ALIVE_FOR_BEATS * conf.getfloat("scheduler", "scheduler_heartbeat_sec")
        self.sweep = self._make_sweep(alive_within, rest if probed else None)
        self.probe = self._make_probe(fence, alive_within)
        self.start = StartDagRuns(
            sessions,
            self.dirty,
            self.plans,
            settings.starts_per_pass,
            self.peers,
            on_none_queued=self.probe.note_none_queued,
            on_started=lambda: self._wake(("schedule",)),
        )
        self.schedule = ScheduleTaskInstances(
            scheduler,
            sessions,
            self.dirty,
            self.plans,
            settings.runs_per_visit,
            wake,
            runs_wait=lambda: self.probe.saw_queued_runs,
            peers=self.peers,
        )
        self.lanes = [self._make_lane(number, new_kept(), fence) for number in range(1, settings.lanes + 1)]
        """The schedule stage once for each visit that may be under way at the same time."""
        lines_up = settings.mode == "concurrent"  # in other modes everything else would wait, too
        self.enqueue = EnqueueTaskInstances(
            scheduler, sessions, self.plans, settings.queue_batch, self.peers, lines_up
        )

    def _make_lane(self, number: int, kept: Sessions | None, fence: Fence) -> Lane:
        name = f"{self.schedule.name}:{number}" if number > 1 else self.schedule.name
        if kept is None:
            return Lane(name, self.schedule)
        unlocked = UnlockedVisits(
            kept, self.schedule.deciding, self.peers, fence, lambda: self._wake(("enqueue",))
        )
        return Lane(name, self.schedule, unlocked)

    def _make_sweep(self, alive_within: float, rest: float | None) -> Sweep:
        return Sweep(
            self._new_looks(),
            self.dirty,
            self.plans,
            self._settings.examine_all_interval,
            self.peers,
            alive_within,
            rest,
        )

    def _make_probe(self, fence: Fence, alive_within: float) -> Probe:
        return Probe(
            self._new_looks(),
            fence,
            float(self._scheduler._scheduler_idle_sleep_time),
            self.peers,
            alive_within,
            self._settings.probe_interval,
            sweep_rests=lambda: self.sweep.rests,
            on_new_runs=self.dirty.note_new_runs,
        )

    def create(self, look_up_ahead: LookUpAhead) -> CreateDagRuns:
        """Return the stage that creates runs."""
        return CreateDagRuns(
            self._scheduler,
            self._sessions,
            self.plans,
            self._settings.dags_per_creation,
            self._settings.instances_per_creation,
            look_up_ahead,
            on_created=self.dirty.note_new_runs,
        )

    def executor(self, name: str, port: ExecutorPort, view: ExecutorView) -> RunExecutorInSets:
        """Return the routine that runs one executor."""
        return RunExecutorInSets(
            name,
            self._scheduler,
            self._sessions,
            self._new_looks(),
            port,
            view,
            self._settings.executor_poll_interval,
            self._settings.routine_timeout,
            self.dirty,
            has_backlog=lambda: self.enqueue.backlog,
            wake=self._wake,
        )
