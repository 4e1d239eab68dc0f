"""Turns a plan into dags: for the metadata database, and as a dag file that real task processes parse."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

if TYPE_CHECKING:
    from poc_bench.plan import DagSpec, TaskSpec

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
"""The logical date of every dag's first run."""

RETRY_DELAY = timedelta(milliseconds=100)


class BenchOperator(BaseOperator):  # type: ignore[misc]  # Airflow is untyped here
    """Sleeps, then ends as its :class:`~poc_bench.plan.TaskSpec` says; only real task processes run it."""

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        outcomes: tuple[str, ...] = ("success",),
        pushes: int | None = None,
        item: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self.outcomes = outcomes
        self.pushes = pushes
        self.item = item

    def execute(self, context: Any) -> list[int] | None:
        """Sleep, then succeed, fail or skip by the number of this try."""
        time.sleep(self.seconds)
        try_number = context["ti"].try_number
        outcome = self.outcomes[min(try_number, len(self.outcomes)) - 1]
        if outcome == "skipped":
            raise AirflowSkipException
        if outcome == "failed":
            raise RuntimeError("planned failure") if self.retries else AirflowFailException("planned failure")
        return list(range(self.pushes)) if self.pushes is not None else None


def build_dag(spec: DagSpec, **options: Any) -> DAG:
    """Return the dag that *spec* describes, with further *options* of its constructor."""
    scheduled = spec.created == "by_scheduler"
    known: dict[str, Any] = {
        "schedule": "@daily" if scheduled else None,
        "start_date": EPOCH,
        "end_date": EPOCH + timedelta(days=spec.runs - 1) if scheduled else None,
        "catchup": True,
        "max_active_runs": spec.max_active_runs,
        "max_active_tasks": spec.max_active_tasks,
    }
    dag = DAG(spec.dag_id, **(known | options))
    operators: dict[str, Any] = {}
    for task in spec.tasks:
        operators[task.task_id] = _operator(dag, task, operators)
    for upstream, downstream in spec.edges():
        operators[upstream] >> operators[downstream]
    return dag


def _operator(dag: DAG, task: TaskSpec, operators: dict[str, Any]) -> Any:
    arguments: dict[str, Any] = {
        "task_id": task.task_id,
        "seconds": task.duration,
        "outcomes": task.outcomes,
        "pushes": task.pushes,
        "dag": dag,
        "trigger_rule": task.trigger_rule,
        "pool": task.pool,
        "pool_slots": task.pool_slots,
        "priority_weight": task.priority_weight,
        "retries": task.retries,
        "retry_delay": RETRY_DELAY,
        "max_active_tis_per_dag": task.max_active_tis_per_dag,
        "max_active_tis_per_dagrun": task.max_active_tis_per_dagrun,
        "depends_on_past": task.depends_on_past,
    }
    if task.mapped_over is None:
        return BenchOperator(**arguments)
    return BenchOperator.partial(**arguments).expand(item=operators[task.mapped_over].output)
