"""Writes a workload into a migrated database: ``python -m poc_bench.seed WORKLOAD SEED DAG_FILE``.

It runs in a process of its own because Airflow reads its configuration when imported. Dags are written the
way the DAG processor writes them. All dags are paused: that is the gate which the harness opens when the
schedulers are up.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import update

from poc_bench.dagfile import EPOCH, build_dag
from poc_bench.executor.rows import HOSTNAME
from poc_bench.past import NEWEST, PATTERN
from poc_bench.plan import DEFAULT_POOL_SLOTS, DagSpec, Plan
from poc_bench.workloads import sized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import DAG

BUNDLE = "dags-folder"
MOST_PATTERN_DAGS = 10
"""The past is made of runs of so many dags."""


def write_plan(plan: Plan, dag_file: Path, build: Callable[[DagSpec], DAG] = build_dag) -> None:
    """Write pools, dags and runs of *plan*; the dags are paused and said to come from *dag_file*."""
    with create_session() as session:
        _write_pools(session, plan)
        _write_dags(session, [build(spec) for spec in plan.dags], dag_file)
    for spec in plan.dags:
        if spec.created == "beforehand":
            with create_session() as session:
                _create_runs(session, spec)
    if plan.history:
        with create_session() as session:
            for spec in plan.dags[:MOST_PATTERN_DAGS]:
                _create_pattern_run(session, spec)


def _write_pools(session: Any, plan: Plan) -> None:
    for name, slots in {"default_pool": DEFAULT_POOL_SLOTS, **plan.pools}.items():
        Pool.create_or_update_pool(name, slots=slots, description="", include_deferred=False, session=session)


def _write_dags(session: Any, dags: Sequence[DAG], dag_file: Path) -> None:
    session.merge(DagBundleModel(name=BUNDLE))
    session.flush()
    for dag in dags:
        dag.fileloc, dag.relative_fileloc = str(dag_file), dag_file.name
    update_dag_parsing_results_in_db(
        bundle_name=BUNDLE,
        bundle_version=None,
        dags=[LazyDeserializedDAG.from_dag(dag) for dag in dags],
        import_errors={},
        parse_duration=None,
        warnings=set(),
        session=session,
    )
    session.execute(update(DagModel).values(is_paused=True))


def _create_runs(session: Any, spec: DagSpec) -> None:
    dag = SerializedDagModel.get(spec.dag_id, session=session).dag
    run_after = datetime.now(UTC) - timedelta(hours=1)
    for number in range(spec.runs):
        logical_date = EPOCH + timedelta(days=number)
        dag.create_dagrun(
            run_id=f"bench_{number:05}",
            logical_date=logical_date,
            data_interval=(logical_date, logical_date),
            run_after=run_after + timedelta(seconds=number),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.QUEUED,
            session=session,
        )


def _create_pattern_run(session: Any, spec: DagSpec) -> None:
    """Create the finished run that the past is made of, see :mod:`poc_bench.past`."""
    dag = SerializedDagModel.get(spec.dag_id, session=session).dag
    run = dag.create_dagrun(
        run_id=PATTERN,
        logical_date=None,  # tasks that start later would get no instances
        data_interval=None,
        run_after=NEWEST,
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.SUCCESS,
        session=session,
    )
    session.flush()
    instances = update(TaskInstance).where(TaskInstance.run_id == PATTERN)
    session.execute(
        instances.values(
            state="success",
            try_number=1,
            hostname=HOSTNAME,
            start_date=NEWEST,
            end_date=NEWEST,
            queued_dttm=NEWEST,
            scheduled_dttm=NEWEST,
        )
    )
    run.start_date = run.end_date = NEWEST


if __name__ == "__main__":
    write_plan(sized(sys.argv[1]).plan(int(sys.argv[2])), Path(sys.argv[3]))
