"""The facade's scheduler once more, with Airflow's methods."""

from __future__ import annotations

from types import MethodType
from typing import Any

from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

HANDED_OVER = frozenset({"_create_dag_runs", "_process_executor_events", "_schedule_dag_run"})
"""The methods that the redesign calls for what it leaves to Airflow's code."""


class AirflowsTwin(SchedulerJobRunner):  # type: ignore[misc]
    """Shares all attributes of a facade: what a caller sets on that, or puts in a method's place, holds here.

    Only not for the methods through which things are handed over. A spy in the place of one of those calls
    ours, and that would come back here for ever.
    """

    def __init__(self, of: SchedulerJobRunner) -> None:
        self.__dict__ = of.__dict__

    def __getattribute__(self, name: str) -> Any:
        if name in HANDED_OVER:
            return MethodType(getattr(SchedulerJobRunner, name), self)
        return super().__getattribute__(name)
