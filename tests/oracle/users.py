"""What users do, through the functions that Airflow's API calls for them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.api.common.mark_tasks import (
    set_dag_run_state_to_failed,
    set_dag_run_state_to_queued,
    set_dag_run_state_to_success,
)
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select, update

from tests.support.dags import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from tests.oracle.story import Step


def act(session: Session, dag_id: str, step: Step) -> None:
    """Do what *step* says to the dag; nothing if there is no such run or task."""
    ACTIONS[step.kind](session, dag_id, step)
    session.flush()


def _run(session: Session, dag_id: str, step: Step) -> Any:
    runs = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after)).all()
    return runs[step.run % len(runs)] if runs else None


def _dag(session: Session, dag_id: str) -> Any:
    found = SerializedDagModel.get(dag_id, session=session)
    assert found is not None
    return found.dag


def _task_id(dag: Any, step: Step) -> str:
    ids = sorted(dag.task_dict)
    return str(ids[step.task % len(ids)])


def _clear(session: Session, dag_id: str, step: Step) -> None:
    """Clear a task of a run, as the API does: what is downstream of it too, or only what failed."""
    dag, run = _dag(session, dag_id), _run(session, dag_id, step)
    if run is None:
        return
    subset = dag.partial_subset(
        task_ids=[_task_id(dag, step)], include_downstream=bool(step.flag & 1), include_upstream=False
    )
    dag.clear(
        task_ids=sorted(subset.task_dict),
        run_id=run.run_id,
        only_failed=bool(step.flag & 2),
        run_on_latest_version=bool(step.flag & 4),
        session=session,
    )


def _clear_run(session: Session, dag_id: str, step: Step) -> None:
    """Clear a whole run, or what failed of it."""
    if (run := _run(session, dag_id, step)) is not None:
        _dag(session, dag_id).clear(run_id=run.run_id, only_failed=bool(step.flag & 2), session=session)


def _clear_one(session: Session, dag_id: str, step: Step) -> None:
    """Clear one task instance by hand, keeping the state of its run unless it has ended."""
    if (run := _run(session, dag_id, step)) is None:
        return
    rows = session.scalars(
        select(TaskInstance)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run.run_id)
        .order_by(TaskInstance.task_id, TaskInstance.map_index)
    ).all()
    clear_task_instances([rows[step.task % len(rows)]] if rows else [], session)


def _mark(state: str) -> Callable[[Session, str, Step], None]:
    def mark(session: Session, dag_id: str, step: Step) -> None:
        dag, run = _dag(session, dag_id), _run(session, dag_id, step)
        if run is None:
            return
        dag.set_task_instance_state(
            task_id=_task_id(dag, step),
            run_id=run.run_id,
            state=state,
            downstream=bool(step.flag & 1),
            session=session,
        )

    return mark


def _mark_run(function: Callable[..., Any]) -> Callable[[Session, str, Step], None]:
    def mark(session: Session, dag_id: str, step: Step) -> None:
        if (run := _run(session, dag_id, step)) is not None:
            function(dag=_dag(session, dag_id), run_id=run.run_id, commit=True, session=session)

    return mark


def _pause(paused: bool) -> Callable[[Session, str, Step], None]:
    def pause(session: Session, dag_id: str, _step: Step) -> None:
        session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(is_paused=paused))

    return pause


def _trigger(session: Session, dag_id: str, step: Step) -> None:
    """Trigger a run by hand; *flag* keeps its id apart from those of others."""
    run_id, when = f"manual_{step.flag}", EPOCH + timedelta(days=30 + step.flag)
    if session.scalar(select(DagRun.id).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)):
        return
    _dag(session, dag_id).create_dagrun(
        run_id=run_id,
        logical_date=when,
        data_interval=(when, when),
        run_after=when,
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.UI,
        state="queued",
        session=session,
    )


ACTIONS: dict[str, Callable[[Session, str, Step], None]] = {
    "clear": _clear,
    "clear run": _clear_run,
    "clear one": _clear_one,
    "mark success": _mark("success"),
    "mark failed": _mark("failed"),
    "run success": _mark_run(set_dag_run_state_to_success),
    "run failed": _mark_run(set_dag_run_state_to_failed),
    "run queued": _mark_run(set_dag_run_state_to_queued),
    "pause": _pause(True),
    "unpause": _pause(False),
    "trigger": _trigger,
}
