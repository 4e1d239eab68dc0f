"""The schedule stage on PostgreSQL brings runs to the rest that Airflow's passes bring them to."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from hypothesis import HealthCheck, given, settings
from sqlalchemy import select, update

from tests.oracle.airflow import (
    Instance,
    Oracle,
    Rest,
    instances_of,
    store_decision,
    store_results,
    store_waiting,
)
from tests.oracle.dags import Dag, serialized, written
from tests.oracle.strategies import dags, mapped_dags
from tests.oracle.test_visit import oracle
from tests.support.dags import create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

__all__ = ["oracle"]

REDESIGNED = replace(FAST, algorithm="redesigned")
numbers = itertools.count()


def store(dag: Dag) -> DagRun:
    """Store *dag* and a running run of it in its states, a finished run before it, and return the run."""
    dag_id = f"dag_{next(numbers)}"
    write_dags(written(dag, dag_id))
    past = create_run(dag_id, 0)
    run = create_run(dag_id, 1, state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == past.id).values(state="failed"))
        for number, task in enumerate(dag.tasks):
            _set(session, past, dag.name(number), state=task.past)
            for instance in _placed(session, dag, number, run):
                store_waiting(session, task, instance)
                if instance.map_index < 1:
                    store_decision(session, dag, task, instance, run)
            store_results(session, task, dag.name(number), run)
    return run


def _placed(session: Any, dag: Dag, number: int, run: DagRun) -> list[TaskInstance]:
    """Let the instances of task *number* in *run* be those of the story; return them."""
    task, of_task = dag.tasks[number], TaskInstance.task_id == dag.name(number)
    in_run = (TaskInstance.dag_id == run.dag_id, TaskInstance.run_id == run.run_id, of_task)
    first, *others = session.scalars(select(TaskInstance).where(*in_run).order_by(TaskInstance.map_index))
    for other in others:
        session.delete(other)
    session.flush()
    placed: list[TaskInstance] = []
    for map_index, state in instances_of(task):
        if not placed:
            instance = first
        else:
            serialized_dag = SerializedDagModel.get(run.dag_id, session=session)
            assert serialized_dag is not None
            operator = serialized_dag.dag.get_task(dag.name(number))
            instance = TaskInstance(operator, dag_version_id=first.dag_version_id, run_id=run.run_id)
            session.add(instance)
        instance.map_index, instance.state = map_index, state
        instance.try_number = task.try_number if state else 0
        session.flush()
        placed.append(instance)
    return placed


def _set(session: Any, run: DagRun, task_id: str, **values: Any) -> None:
    session.execute(
        update(TaskInstance)
        .where(
            TaskInstance.dag_id == run.dag_id,
            TaskInstance.run_id == run.run_id,
            TaskInstance.task_id == task_id,
        )
        .values(**values)
        .execution_options(synchronize_session=False)
    )


def read(dag: Dag, run: DagRun) -> Rest:
    """Return where the run stands."""
    table = TaskInstance.__table__.c
    with create_session() as session:
        state = session.scalar(select(DagRun.state).where(DagRun.id == run.id))
        rows = session.execute(
            select(
                table.task_id,
                table.map_index,
                table.state,
                table.try_number,
                table.start_date,
                table.end_date,
            ).where(table.dag_id == run.dag_id, table.run_id == run.run_id)
        )
        return Rest(
            str(getattr(state, "value", state)),
            {
                (dag.number(task_id), index): Instance(found, tries, bool(start), bool(end))
                for task_id, index, found, tries, start, end in rows
            },
        )


async def settle(assembly: Assembly, run: DagRun) -> None:
    """Let the schedule stage visit the run until nothing asks for another visit."""
    new = assembly.redesigned
    assert new is not None
    new.dirty.mark([run.id])
    while len(new.dirty):
        await new.schedule.run_once()


def bring_to_rest(dag: Dag) -> Rest:
    """Store the run, settle it and read it."""
    run = store(dag)

    async def visit() -> None:
        async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
            await settle(assembly, run)

    asyncio.run(visit())
    return read(dag, run)


def agree(oracle: Oracle, dag: Dag) -> None:
    """Assert that both come to the same rest."""
    expected = oracle.rest(dag, serialized(dag))
    assert bring_to_rest(dag) == expected


@given(dag=dags())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_the_stage_ends_where_airflow_comes_to_rest(airflow_db: Database, oracle: Oracle, dag: Dag) -> None:
    agree(oracle, dag)


@pytest.mark.deep
@given(dag=dags(most=12))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3000)
def test_the_stage_ends_where_airflow_comes_to_rest_deeply(
    airflow_db: Database, oracle: Oracle, dag: Dag
) -> None:
    agree(oracle, dag)


@given(dag=mapped_dags())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_the_stage_ends_where_airflow_comes_to_rest_with_maps(
    airflow_db: Database, oracle: Oracle, dag: Dag
) -> None:
    agree(oracle, dag)


@pytest.mark.deep
@given(dag=mapped_dags(most=8))
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(3000)
def test_the_stage_ends_where_airflow_comes_to_rest_with_maps_deeply(
    airflow_db: Database, oracle: Oracle, dag: Dag
) -> None:
    agree(oracle, dag)
