"""Both critical sections, on the same rows until they queue nothing more, queue the same task instances."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam, delete, func, select, update

from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

    from async_scheduler.assembly import Assembly
    from async_scheduler.settings import Algorithm
    from tests.support.postgres import Database

TASKS, RUNS = 6, 3
numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Scene:
    """Two dags of six tasks in three runs each; everything that may keep their instances from the queue.

    ``states``, ``pools`` and ``limits`` are per task instance or task, in order; ``weights`` makes the order
    of the candidates unique, so that both sections see the same one.
    """

    states: tuple[str, ...]
    pools: tuple[int, ...]
    sizes: tuple[int, ...]
    include_deferred: bool
    weights: tuple[int, ...]
    per_dag: tuple[int | None, ...]
    per_run: tuple[int | None, ...]
    max_active_tasks: int
    paused: bool
    slots: int


COUNT = 2 * RUNS * TASKS
SCENES = st.builds(
    Scene,
    states=st.tuples(
        *[st.sampled_from(("scheduled",) * 6 + ("running", "queued", "deferred", "success", ""))] * COUNT
    ),
    pools=st.tuples(*[st.integers(0, 2)] * (2 * TASKS)),
    sizes=st.tuples(*[st.sampled_from((-1, 0, 1, 3, 8))] * 3),
    include_deferred=st.booleans(),
    weights=st.permutations(range(COUNT)).map(tuple),
    per_dag=st.tuples(*[st.sampled_from((None, None, 1, 2))] * (2 * TASKS)),
    per_run=st.tuples(*[st.sampled_from((None, None, 1, 2))] * (2 * TASKS)),
    max_active_tasks=st.integers(1, 8),
    paused=st.booleans(),
    slots=st.sampled_from((3, 100)),
)


class Slots(InstantExecutor):
    """An executor that runs nothing and whose slots fill up."""

    def heartbeat(self) -> None:
        """Nothing starts."""


def create(scene: Scene) -> list[DagRun]:
    """Store the dags, runs and pools of the scene; return the runs."""
    names = [f"dag_{next(numbers)}" for _ in range(2)]
    dags = [_dag(scene, which, name) for which, name in enumerate(names)]
    write_dags(*dags)
    with create_session() as session:
        session.execute(delete(Pool).where(Pool.pool != "default_pool"))
        for number, size in enumerate(scene.sizes):
            pool = Pool(
                pool=f"pool_{number}", slots=size, include_deferred=scene.include_deferred, description=""
            )
            session.add(pool)
        session.execute(update(DagModel).where(DagModel.dag_id == names[1]).values(is_paused=scene.paused))
    return [create_run(name, n, state=DagRunState.RUNNING) for name in names for n in range(RUNS)]


def _dag(scene: Scene, which: int, name: str) -> DAG:
    with DAG(name, start_date=EPOCH, schedule=None, max_active_tasks=scene.max_active_tasks) as dag:
        for number in range(TASKS):
            index = which * TASKS + number
            EmptyOperator(
                task_id=f"t{number}",
                pool=f"pool_{scene.pools[index]}",
                max_active_tis_per_dag=scene.per_dag[index],
                max_active_tis_per_dagrun=scene.per_run[index],
            )
    return dag


def place(scene: Scene, runs: list[DagRun]) -> None:
    """Let the task instances stand as the scene has it, whatever was made of them before."""
    c = TaskInstance.__table__.c
    statement = (
        update(TaskInstance.__table__)
        .where(c.dag_id == bindparam("dag"), c.run_id == bindparam("run"), c.task_id == bindparam("task"))
        .values(
            state=bindparam("new_state"),
            priority_weight=bindparam("weight"),
            scheduled_dttm=func.now(),
            try_number=1,
            queued_by_job_id=None,
        )
    )
    with create_session() as session:
        session.connection().execute(statement, [_placed(scene, runs, index) for index in range(COUNT)])


def _placed(scene: Scene, runs: list[DagRun], index: int) -> dict[str, Any]:
    run = runs[index // TASKS]
    return {
        "dag": run.dag_id,
        "run": run.run_id,
        "task": f"t{index % TASKS}",
        "new_state": scene.states[index] or None,
        "weight": scene.weights[index],
    }


def clear() -> None:
    """Forget the runs and dags of the last scene."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel

    with create_session() as session:
        for model in (TaskInstance, DagRun, SerializedDagModel, DagVersion, DagModel):
            session.execute(delete(model))


def picture() -> list[tuple[Any, ...]]:
    """Return every task instance with what a critical section changes."""
    c = TaskInstance.__table__.c
    with create_session() as session:
        rows = session.execute(
            select(c.run_id, c.task_id, c.priority_weight, c.state, c.queued_by_job_id.is_not(None)).order_by(
                c.run_id, c.task_id, c.priority_weight
            )
        )
        return [tuple(row) for row in rows]


async def enqueue_until_done(assembly: Assembly) -> Counter[Any]:
    """Let the enqueue stage pass until it queues nothing more; return what executors were given."""
    routine = assembly.supervisor.drivers["enqueue"].routine
    idle = 0
    while idle < 2:
        outcome = await routine.run_once()
        idle = 0 if outcome.counts.get("queued") or outcome.more else idle + 1
    return Counter(workload.key for port in assembly.ports for workload in port._workloads.values())


def queued_by(algorithm: Algorithm, scene: Scene, runs: list[DagRun]) -> tuple[list[tuple[Any, ...]], int]:
    """Place the scene, let one algorithm queue what it can, and return the picture and the hand-overs."""
    place(scene, runs)

    async def run() -> Counter[Any]:
        chosen = replace(FAST, algorithm=algorithm)
        async with assembled(Slots(parallelism=scene.slots), settings=chosen) as assembly:
            return await enqueue_until_done(assembly)

    given = asyncio.run(run())
    assert set(given.values()) <= {1}
    return picture(), len(given)


@given(scene=SCENES)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_both_queue_the_same(airflow_db: Database, scene: Scene) -> None:
    runs = create(scene)
    try:
        assert queued_by("redesigned", scene, runs) == queued_by("upstream", scene, runs)
    finally:
        clear()
