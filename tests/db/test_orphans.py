"""What the task instances of a scheduler that has died cost the one that takes them over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.jobs.job import Job
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.utils.session import create_session
from sqlalchemy import event, func, select

from async_scheduler.runner import AsyncSchedulerJobRunner
from tests.support.dags import create_run, layered_dag, orphan_all, write_dags
from tests.support.executor import InstantExecutor

if TYPE_CHECKING:
    from tests.support.postgres import Database

ORPHANS = 30


@pytest.mark.parametrize("adopts", [False, True])
def test_orphans_are_read_whole_and_not_column_by_column(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch, adopts: bool
) -> None:
    write_dags(layered_dag("dag", [ORPHANS]))
    create_run("dag", state="running")
    orphan_all()
    if adopts:
        monkeypatch.setattr(InstantExecutor, "try_adopt_task_instances", lambda self, tis: [])
    runner: Any = AsyncSchedulerJobRunner(Job(), executors=[InstantExecutor()])
    with create_session() as session:
        runner.job.prepare_for_execution(session=session)
    asked: list[str] = []
    engine: Any = settings.engine

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        assert runner.adopt_or_reset_orphaned_tasks() == (0 if adopts else ORPHANS)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    with create_session() as session:
        kept = session.scalar(select(func.count()).select_from(TaskInstanceHistory))
        mine = session.scalar(
            select(func.count())
            .select_from(TaskInstance)
            .where(TaskInstance.queued_by_job_id == runner.job.id)
        )
    assert (kept, mine) == ((0, ORPHANS) if adopts else (ORPHANS, 0))
    reads = [statement for statement in asked if statement.startswith("SELECT task_instance.")]
    assert len(reads) < ORPHANS / 2, "\n".join(reads[-3:])
