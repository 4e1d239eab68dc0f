"""Airflow's own scheduling passes over one run, on a SQLite database in memory: the oracle.

The dependency classes of a task instance run in the fixed order that this project documents; Airflow's
own order is that of a set of classes, so this is one of the orders it may run in.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, delete
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from tests.oracle.dags import LOGICAL_DATE, START_DATE, Dag, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEPENDENCY_ORDER = (
    "NotInRetryPeriodDep",
    "ReadyToRescheduleDep",
    "PrevDagrunDep",
    "NotPreviouslySkippedDep",
    "TriggerRuleDep",
    "MappedTaskUpstreamDep",
)
MOST_PASSES = 80


@dataclass(frozen=True, slots=True)
class Instance:
    """What matters about a task instance at rest."""

    state: str | None
    try_number: int
    started: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class Rest:
    """A run at rest: its state, its task instances by (task number, map index), and the passes it took."""

    run: str
    instances: dict[tuple[int, int], Instance]


class OrderedDependencies(set[Any]):
    """Dependencies that keep their order when united with those of a context."""

    def __init__(self, dependencies: Any, order: Sequence[str] = DEPENDENCY_ORDER) -> None:
        self._order = order
        self._ordered = sorted(dependencies, key=lambda dep: order.index(type(dep).__name__))
        super().__init__(self._ordered)

    def __ror__(self, other: set[Any]) -> Any:
        return OrderedDependencies({*other, *self._ordered}, self._order)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ordered)


def ordered_dependencies(dag_bag: Any, order: Sequence[str] = DEPENDENCY_ORDER) -> None:
    """Let every dag that *dag_bag* reads from now on have its dependencies in this order."""
    read = dag_bag._read_dag

    def read_ordered(serialized: Any) -> Any:
        dag = read(serialized)
        for op in dag.task_dict.values() if dag else ():
            object.__setattr__(op, "deps", OrderedDependencies(op.deps, order))
        return dag

    dag_bag._read_dag = read_ordered


class Oracle:
    """A database for one run at a time."""

    def __init__(self) -> None:
        from airflow.models import import_all_models
        from airflow.models.base import Base

        import_all_models()
        engine = create_engine("sqlite://", poolclass=StaticPool)
        Base.metadata.create_all(engine)
        self._engine = engine
        self._session = sessionmaker(engine, autoflush=False, expire_on_commit=False)

    def close(self) -> None:
        """Forget the database."""
        self._engine.dispose()

    @contextmanager
    def run(self, dag: Dag, serialized: Any) -> Iterator[Any]:
        """Store a running run of *dag* in its states; yield a session and the run; delete it after."""
        try:
            with self._session() as session:
                dag_run = _store(session, dag, serialized)
                session.commit()
                yield session, dag_run
        finally:  # what one example raises must not be blamed on all that come after it
            with self._session() as session:
                for table in _tables():
                    session.execute(delete(table))
                session.commit()

    def rest(self, dag: Dag, serialized: Any) -> Rest:
        """Pass over the run of *dag* until a pass changes nothing more."""
        with self.run(dag, serialized) as (session, dag_run):
            before: Any = None
            for _ in range(MOST_PASSES):
                _pass(session, dag_run, serialized)
                now = _read(session, dag, dag_run)
                if now == before or now.run != "running":
                    return now
                before = now
        raise AssertionError("the oracle does not come to rest")


def _pass(session: Session, dag_run: Any, serialized: Any) -> None:
    session.expire_all()
    dag_run.dag = serialized
    ready, _ = dag_run.update_state(session=session, execute_callbacks=False)
    dag_run.schedule_tis(ready, session=session)
    session.commit()


def _read(session: Session, dag: Dag, dag_run: Any) -> Rest:
    from airflow.models.taskinstance import TaskInstance as TI
    from sqlalchemy import select

    table = TI.__table__.c
    rows = session.execute(
        select(
            table.task_id, table.map_index, table.state, table.try_number, table.start_date, table.end_date
        ).where(table.run_id == dag_run.run_id)
    )
    return Rest(
        str(getattr(dag_run.state, "value", dag_run.state)),
        {
            (dag.number(task_id), map_index): Instance(state, tries, bool(start), bool(end))
            for task_id, map_index, state, tries, start, end in rows
        },
    )


def _tables() -> tuple[Any, ...]:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.taskmap import TaskMap
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.models.xcom import XComModel

    return XComModel, TaskMap, TaskReschedule, TaskInstance, DagRun


def _store(session: Session, dag: Dag, serialized: Any) -> Any:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    for op in serialized.task_dict.values():
        object.__setattr__(op, "deps", OrderedDependencies(op.deps))
    dag_run = DagRun(
        dag_id=serialized.dag_id,
        run_id="run",
        run_type="scheduled",
        logical_date=LOGICAL_DATE,
        run_after=LOGICAL_DATE,
        start_date=LOGICAL_DATE,
        state="running",
    )
    session.add(dag_run)
    session.flush()
    _store_past(session, dag, serialized)
    for number, task in enumerate(dag.tasks):
        op = serialized.get_task(dag.name(number))
        for map_index, state in instances_of(task):
            instance = TaskInstance(op, run_id="run", dag_version_id=None, map_index=map_index)
            instance.state, instance.try_number = state, task.try_number if state else 0
            session.add(instance)
            session.flush()
            store_waiting(session, task, instance)
            if map_index < 1:
                store_decision(session, dag, task, instance, dag_run)
        store_results(session, task, dag.name(number), dag_run)
    session.flush()
    return dag_run


def instances_of(task: Task) -> list[tuple[int, str | None]]:
    """Return map index and state of each instance of *task*."""
    return list(enumerate(task.indexes)) if task.indexes else [(-1, task.state)]


def store_results(session: Session, task: Task, task_id: str, dag_run: Any) -> None:
    """Store what *task* returned, as far as lengths go."""
    from airflow.models.taskmap import TaskMap
    from airflow.models.xcom import XComModel

    if task.returned is None:
        return
    if not task.mapped:
        session.add(TaskMap(dag_run.dag_id, task_id, dag_run.run_id, -1, task.returned, None))
        return
    for map_index in range(min(task.returned, len(task.indexes))):
        session.add(
            XComModel(
                dag_run_id=dag_run.id,
                task_id=task_id,
                map_index=map_index,
                key="return_value",
                dag_id=dag_run.dag_id,
                run_id=dag_run.run_id,
                value="x",
            )
        )
    session.flush()


def _store_past(session: Session, dag: Dag, serialized: Any) -> None:
    """A previous run, in which the tasks ended as the dag has it."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    if not any(task.depends_on_past or task.wait_for_downstream for task in dag.tasks):
        return
    session.add(
        DagRun(
            dag_id=serialized.dag_id,
            run_id="past",
            run_type="scheduled",
            logical_date=START_DATE,
            run_after=START_DATE,
            state="failed",
        )
    )
    session.flush()
    for number, task in enumerate(dag.tasks):
        past = TaskInstance(serialized.get_task(dag.name(number)), run_id="past", dag_version_id=None)
        past.state = task.past
        session.add(past)


def store_waiting(session: Session, task: Task, instance: Any) -> None:
    """Let a waiting *instance* of *task* fall due yesterday or tomorrow."""
    from airflow.models.taskreschedule import TaskReschedule

    now = datetime.now(UTC)
    if instance.state == "up_for_retry":
        instance.end_date = now - timedelta(days=1) if task.due else now + timedelta(days=1)
    elif instance.state == "up_for_reschedule":
        due = now - timedelta(days=1) if task.due else now + timedelta(days=1)
        session.add(TaskReschedule(instance.id, START_DATE, START_DATE, due))


def store_decision(session: Session, dag: Dag, task: Task, instance: Any, dag_run: Any) -> None:
    """Store what a branch *task* decided to skip."""
    from airflow.models.xcom import XComModel

    decision = {
        key: [dag.name(number) for number in numbers]
        for key, numbers in (("followed", task.followed), ("skipped", task.skipped))
        if numbers is not None
    }
    if decision:
        session.add(
            XComModel(
                dag_run_id=dag_run.id,
                task_id=instance.task_id,
                map_index=-1,
                key="skipmixin_key",
                dag_id=dag_run.dag_id,
                run_id=dag_run.run_id,
                value=decision,
            )
        )
