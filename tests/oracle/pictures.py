"""What the database shows of a dag's life: all that both schedulers must agree on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.models.backfill import Backfill, BackfillDagRun
from airflow.models.callback import Callback
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from sqlalchemy import delete, func, select

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

INSTANCE, RUN, VERSION = TaskInstance.__table__.c, DagRun.__table__.c, DagVersion.__table__.c
HISTORY = TaskInstanceHistory.__table__.c


@dataclass(frozen=True, slots=True)
class Picture:
    """A life at rest.

    ``instances`` by (run, task, map index): state, try number, most tries, whether it has a start and an
    end, whether it resumes, the number of its dag version. ``runs`` by id: state, whether it has a start and
    an end, times cleared, type. ``earlier``: tries in the history. ``callbacks``: requests to the DAG
    processor. ``limited``: the limit flag of the dag and whether it is paused.
    """

    instances: dict[tuple[str, str, int], tuple[Any, ...]]
    runs: dict[str, tuple[Any, ...]]
    earlier: Counter[tuple[Any, ...]]
    callbacks: Counter[tuple[Any, ...]]
    limited: tuple[Any, ...]


def picture(dag_id: str) -> Picture:
    """Return what the database shows of the dag."""
    with create_session() as session:
        return Picture(
            _instances(session, dag_id),
            _runs(session, dag_id),
            _earlier(session, dag_id),
            Counter(_kind(callback) for callback in session.scalars(select(Callback))),
            tuple(
                session.execute(
                    select(_DAG.exceeds_max_non_backfill, _DAG.is_paused).where(_DAG.dag_id == dag_id)
                ).one()
            ),
        )


_DAG = DagModel.__table__.c


def _instances(session: Session, dag_id: str) -> dict[tuple[str, str, int], tuple[Any, ...]]:
    c = INSTANCE
    rows = session.execute(
        select(
            c.run_id,
            c.task_id,
            c.map_index,
            c.state,
            c.try_number,
            c.max_tries,
            c.start_date.is_not(None),
            c.end_date.is_not(None),
            c.next_method,
            VERSION.version_number,
        )
        .outerjoin(DagVersion.__table__, VERSION.id == c.dag_version_id)
        .where(c.dag_id == dag_id)
    )
    return {(run, task, index): tuple(rest) for run, task, index, *rest in rows}


def _runs(session: Session, dag_id: str) -> dict[str, tuple[Any, ...]]:
    c = RUN
    rows = session.execute(
        select(
            c.run_id, c.state, c.start_date.is_not(None), c.end_date.is_not(None), c.clear_number, c.run_type
        ).where(c.dag_id == dag_id)
    )
    return {run: tuple(rest) for run, *rest in rows}


def _earlier(session: Session, dag_id: str) -> Counter[tuple[Any, ...]]:
    c = HISTORY
    rows = session.execute(
        select(c.run_id, c.task_id, c.map_index, c.try_number, c.state).where(c.dag_id == dag_id)
    )
    return Counter(tuple(row) for row in rows)


def _kind(callback: Callback) -> tuple[Any, ...]:
    data = callback.data["req_data"]
    return callback.data["req_class"], '"is_failure_callback":true' in data, '"last_ti":null' in data


def fingerprint() -> Any:
    """Return something that is another one when a pass over dags and runs has changed anything."""
    with create_session() as session:
        instances = session.execute(
            select(INSTANCE.id, INSTANCE.state, INSTANCE.try_number, INSTANCE.map_index)
        )
        runs = session.execute(select(RUN.id, RUN.state, RUN.start_date))
        dags = session.execute(
            select(_DAG.dag_id, _DAG.next_dagrun_create_after, _DAG.exceeds_max_non_backfill)
        )
        return {tuple(row) for row in instances}, {tuple(row) for row in runs}, {tuple(row) for row in dags}


def any_scheduled() -> bool:
    """Whether a task instance waits for the critical section."""
    with create_session() as session:
        return bool(session.scalar(select(func.count()).where(INSTANCE.state == "scheduled")))


def forget() -> None:
    """Delete all dags, runs and what belongs to them."""
    with create_session() as session:
        for model in (
            BackfillDagRun,
            TaskInstanceHistory,
            TaskInstance,
            DagRun,
            Backfill,
            SerializedDagModel,
            DagVersion,
            DagModel,
            Callback,
            Trigger,
        ):
            session.execute(delete(model))


def differences(ours: Picture, airflows: Picture) -> list[str]:
    """Return in words how two pictures differ."""
    found = []
    for name in ("instances", "runs", "earlier", "callbacks"):
        seen, wanted = getattr(ours, name), getattr(airflows, name)
        found += [
            f"{name} {key}: ours {seen.get(key)}, Airflow's {wanted.get(key)}"
            for key in sorted({*seen, *wanted}, key=str)
            if seen.get(key) != wanted.get(key)
        ]
    if ours.limited != airflows.limited:
        found.append(f"limited, paused: ours {ours.limited}, Airflow's {airflows.limited}")
    return found
