"""Writes dags and runs into a test database the way the DAG processor and the scheduler would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.jobs.job import Job, JobState
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import create_default_connections  # noqa: F401  (imports every model)
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import update

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

BUNDLE = "dags-folder"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

DagBuilder = Callable[[str], DAG]


def scheduled_dag(dag_id: str) -> DAG:
    """Return a dag of one task for which a run is due now."""
    with DAG(dag_id, start_date=EPOCH, schedule="@daily", catchup=False) as dag:
        EmptyOperator(task_id="task", on_execute_callback=_noop)
    return dag


async def notify() -> None:
    """Stands for what a user does about a missed deadline."""


def dag_with_deadline(dag_id: str, interval: Any, *, schedule: Any = "@daily") -> DAG:
    """Return a due dag of one task whose runs have a deadline."""
    alert = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=interval, callback=AsyncCallback(notify)
    )
    with DAG(dag_id, start_date=EPOCH, schedule=schedule, catchup=False, deadline=alert) as dag:
        EmptyOperator(task_id="task")
    return dag


def layered_dag(dag_id: str, layers: Sequence[int], **options: Any) -> DAG:
    """Return a dag whose tasks stand in layers, each task downstream of the whole layer before it.

    The tasks run (they are not short-cut as empty ones) because they have an execute callback.
    """
    with DAG(dag_id, start_date=EPOCH, schedule=None, **options) as dag:
        before: list[EmptyOperator] = []
        for level, width in enumerate(layers):
            layer = [
                EmptyOperator(task_id=f"l{level}_t{number}", on_execute_callback=_noop)
                for number in range(width)
            ]
            for task in layer:
                task.set_upstream(before)
            before = layer
    return dag


def _noop(_context: Any) -> None:
    return None


def orphan_all() -> None:
    """Leave every task instance queued by a scheduler that has died."""
    with create_session() as session:
        dead = Job(job_type="SchedulerJob", state=JobState.FAILED)
        session.add(dead)
        session.flush()
        session.execute(update(TaskInstance).values(state="queued", queued_by_job_id=dead.id, try_number=1))


def write_dags(*dags: DAG, paused: bool = False) -> None:
    """Store *dags* as the DAG processor does: model, version and serialized form."""
    for dag in dags:
        # The code is stored with a dag, so there must be a file; any will do.
        dag.fileloc, dag.relative_fileloc = __file__, "dags.py"
    with create_session() as session:
        session.merge(DagBundleModel(name=BUNDLE))
        session.flush()
        update_dag_parsing_results_in_db(
            bundle_name=BUNDLE,
            bundle_version=None,
            dags=[LazyDeserializedDAG.from_dag(dag) for dag in dags],
            import_errors={},
            parse_duration=None,
            warnings=set(),
            session=session,
        )
        session.execute(update(DagModel).values(is_paused=paused))


def create_run(
    dag_id: str, number: int = 0, *, state: DagRunState = DagRunState.QUEUED, **options: Any
) -> DagRun:
    """Create the run ``run_<number>`` of a stored dag with its task instances, and return it."""
    logical_date = EPOCH + timedelta(days=number)
    with create_session() as session:
        serialized = SerializedDagModel.get(dag_id, session=session)
        assert serialized is not None
        return serialized.dag.create_dagrun(
            run_id=f"run_{number}",
            logical_date=logical_date,
            data_interval=(logical_date, logical_date),
            run_after=logical_date,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=state,
            session=session,
            **options,
        )
