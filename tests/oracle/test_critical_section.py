"""Both critical sections, on the same rows until they queue nothing more, queue the same task instances."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update

from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
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


def store(scene: Scene) -> None:
    """Make the database show the scene."""
    names = [f"dag_{next(numbers)}" for _ in range(2)]
    for which, name in enumerate(names):
        with DAG(name, start_date=EPOCH, schedule=None, max_active_tasks=scene.max_active_tasks) as dag:
            for number in range(TASKS):
                index = which * TASKS + number
                EmptyOperator(
                    task_id=f"t{number}",
                    pool=f"pool_{scene.pools[index]}",
                    max_active_tis_per_dag=scene.per_dag[index],
                    max_active_tis_per_dagrun=scene.per_run[index],
                )
        write_dags(dag)
    runs = [create_run(name, n, state=DagRunState.RUNNING) for name in names for n in range(RUNS)]
    with create_session() as session:
        session.execute(delete(Pool).where(Pool.pool != "default_pool"))
        for number, size in enumerate(scene.sizes):
            pool = Pool(
                pool=f"pool_{number}", slots=size, include_deferred=scene.include_deferred, description=""
            )
            session.add(pool)
        session.execute(update(DagModel).where(DagModel.dag_id == names[1]).values(is_paused=scene.paused))
        for number, run in enumerate(runs):
            for task in range(TASKS):
                index = number * TASKS + task
                _set(session, run, f"t{task}", state=scene.states[index] or None, weight=scene.weights[index])


def _set(session: Any, run: Any, task_id: str, state: str | None, weight: int) -> None:
    session.execute(
        update(TaskInstance)
        .where(
            TaskInstance.dag_id == run.dag_id,
            TaskInstance.run_id == run.run_id,
            TaskInstance.task_id == task_id,
        )
        .values(state=state, priority_weight=weight, scheduled_dttm=func.now(), try_number=1)
        .execution_options(synchronize_session=False)
    )


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
    return Counter(workload.key for port in assembly.ports for workload in port._workloads)


def queued_by(algorithm: Algorithm, scene: Scene) -> tuple[list[tuple[Any, ...]], int]:
    """Store the scene, let one algorithm queue what it can, and return the picture and the hand-overs."""
    store(scene)

    async def run() -> Counter[Any]:
        chosen = replace(FAST, algorithm=algorithm)
        async with assembled(Slots(parallelism=scene.slots), settings=chosen) as assembly:
            return await enqueue_until_done(assembly)

    given = asyncio.run(run())
    assert set(given.values()) <= {1}
    seen = picture()
    clear()
    return seen, len(given)


@given(scene=SCENES)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_both_queue_the_same(airflow_db: Database, scene: Scene) -> None:
    assert queued_by("redesigned", scene) == queued_by("upstream", scene)
