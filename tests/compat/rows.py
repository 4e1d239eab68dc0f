"""Runners to compare, the rows they are given, and what is compared of the rows they leave."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.backfill import ReprocessBehavior, _create_backfill
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Asset
from airflow.utils.session import create_session
from sqlalchemy import select, update

from async_scheduler.compat import SyncFacadeRunner
from tests.support.dags import EPOCH, write_dags
from tests.support.executor import InstantExecutor

RUNNERS = (SchedulerJobRunner, SyncFacadeRunner)
ASSET = Asset(uri="test://events", name="events")


class Sink:
    """Keeps the callback requests that are sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, request: Any) -> None:
        """Keep *request*."""
        self.sent.append(request)


def new_runner(kind: Any, *executors: Any, **options: Any) -> Any:
    """Return a runner whose job is in the database, with one instant executor where none is given."""
    with create_session() as session:
        job = Job(job_type="SchedulerJob")
        session.add(job)
    instant = InstantExecutor(parallelism=8)
    instant.callback_sink = Sink()
    return kind(job=job, executors=list(executors) or [instant], **options)


def chain(dag_id: str, *task_ids: str, **options: Any) -> DAG:
    """Return a dag of tasks that run one after another."""
    tasks = options.pop("tasks", {})
    with DAG(dag_id, start_date=EPOCH, **{"schedule": None, **options}) as dag:
        before = None
        for task_id in task_ids:
            task = BashOperator(task_id=task_id, bash_command="true", **tasks)
            if before is not None:
                before >> task
            before = task
    return dag


def set_states(dag_id: str, states: dict[str, str | None], **columns: Any) -> None:
    """Give task instances of a dag their states, and all of them the same other columns."""
    with create_session() as session:
        for task_id, state in states.items():
            of_task = (TaskInstance.dag_id == dag_id, TaskInstance.task_id == task_id)
            session.execute(update(TaskInstance).where(*of_task).values(state=state, **columns))


def change_runs(dag_id: str, **columns: Any) -> None:
    """Change all runs of a dag."""
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == dag_id).values(**columns))


def queue_asset_event(dag_id: str) -> None:
    """Store an event of :data:`ASSET` that makes *dag_id*, scheduled on it, due."""
    with create_session() as session:
        asset = session.scalars(select(AssetModel)).one()
        session.add(AssetEvent(asset_id=asset.id, timestamp=datetime.now(UTC), source_map_index=-1))
        session.add(AssetDagRunQueue(asset_id=asset.id, target_dag_id=dag_id, created_at=datetime.now(UTC)))


def write_backfill(dag_id: str) -> int:
    """Store a daily dag with a backfill of four queued runs, two of which may run; return its id."""
    write_dags(chain(dag_id, "task", schedule="@daily", catchup=True, max_active_runs=1))
    backfill = _create_backfill(
        dag_id=dag_id,
        from_date=EPOCH,
        to_date=EPOCH + timedelta(days=3),
        max_active_runs=2,
        reverse=False,
        triggering_user_name=None,
        dag_run_conf={},
        reprocess_behavior=ReprocessBehavior.NONE,
    )
    return int(backfill.id)


def snapshot() -> dict[str, list[Any]]:
    """Return what a call leaves in the tables that schedulers write; of times, whether they are set."""
    run, ti, dag = DagRun.__table__.c, TaskInstance.__table__.c, DagModel.__table__.c
    runs = select(
        run.dag_id,
        run.run_id,
        run.run_type,
        run.state,
        run.start_date.is_not(None),
        run.end_date.is_not(None),
        run.last_scheduling_decision.is_not(None),
        run.scheduled_by_job_id,
        run.creating_job_id,
        run.backfill_id,
    )
    instances = select(
        ti.dag_id,
        ti.run_id,
        ti.task_id,
        ti.map_index,
        ti.state,
        ti.try_number,
        ti.start_date.is_not(None),
        ti.end_date.is_not(None),
        ti.scheduled_dttm.is_not(None),
        ti.queued_dttm.is_not(None),
        ti.queued_by_job_id,
        ti.external_executor_id.is_not(None),
        ti.pool,
        ti.priority_weight,
    )
    dags = select(dag.dag_id, dag.exceeds_max_non_backfill, dag.next_dagrun, dag.next_dagrun_create_after)
    with create_session() as session:
        return {
            name: sorted((_without_chance(tuple(row)) for row in session.execute(query)), key=repr)
            for name, query in (("runs", runs), ("instances", instances), ("dags", dags))
        }


def _without_chance(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cut the time and the random part off the id of a run for asset events."""
    return tuple(
        part.partition("__")[0] if isinstance(part, str) and part.startswith("asset_triggered__") else part
        for part in row
    )
