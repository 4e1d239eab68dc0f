"""Runs the stock scheduler with its phases named and its engine traced, so that its locks can be compared.

``python -m poc_bench.contention.stock scheduler …`` is ``airflow scheduler …`` with the client's ledger of
:mod:`async_scheduler.measure` on Airflow's own engine, written to the directory that an async scheduler
would trace to. Nothing else changes: the phases are called by Airflow's loop, in its order, with its
arguments. What several phases do in one transaction stands under the phase that began it.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_scheduler.measure import attribution
from async_scheduler.measure.instrument import Instrument

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE = "AIRFLOW__ASYNC_SCHEDULER__TRACE_DIRECTORY"
APPLICATION = "stock scheduler"
LOOP = "the rest of the loop"
PHASES = {
    "_create_dagruns_for_dags": "create",
    "_start_queued_dagruns": "start",
    "_schedule_all_dag_runs": "schedule",
    "_critical_section_enqueue_task_instances": "enqueue",
    "_process_executor_events": "executor",
    "adopt_or_reset_orphaned_tasks": "adopt_orphans",
}
"""Methods of ``SchedulerJobRunner`` and the routines that stand for them in the async scheduler."""


def named(function: Callable[..., Any], routine: str) -> Callable[..., Any]:
    """Return *function* with everything in it attributed to *routine*."""
    calls = itertools.count()

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with attribution.routine(routine, iteration=next(calls)):
            return function(*arguments, **options)

    return run


def traced_loop(loop: Callable[[Any], None], directory: Path) -> Callable[[Any], None]:
    """Return the scheduler's loop with a trace written to *directory* while it runs."""

    @functools.wraps(loop)
    def run(runner: Any) -> None:
        from airflow import settings

        instrument = Instrument("stock-scheduler", labels={"mode": "stock", "backend": "postgresql"})
        instrument.attach([settings.engine])
        instrument.start(directory)
        try:
            with attribution.routine(LOOP):
                loop(runner)
        finally:
            instrument.stop()

    return run


def install(directory: Path) -> None:
    """Name the phases of Airflow's scheduler, and trace it to *directory* once its loop begins."""
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun

    owner: Any = SchedulerJobRunner
    for method, routine in PHASES.items():
        setattr(owner, method, named(getattr(owner, method), routine))
    # the claim of the runs is a call of the loop itself, before the phase that examines them
    claim: Any = DagRun.get_running_dag_runs_to_examine
    DagRun.get_running_dag_runs_to_examine = staticmethod(named(claim, "schedule"))
    owner._run_scheduler_loop = traced_loop(owner._run_scheduler_loop, directory)


def main() -> None:
    """Run the command line of Airflow."""
    os.environ.setdefault("PGAPPNAME", APPLICATION)
    install(Path(os.environ[TRACE]))
    from airflow.__main__ import main as airflow

    sys.argv[0] = "airflow"
    airflow()


if __name__ == "__main__":
    main()
