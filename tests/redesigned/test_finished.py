"""The lines about ended task instances: Airflow's, and records of their own unless there are many."""

from __future__ import annotations

import logging
from uuid import UUID

import pytest
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState

from async_scheduler.routines.redesigned.finished import ALONE, TOGETHER, Ended, FinishedLog
from async_scheduler.store.events import ReportedRow

LOGGER = "airflow.jobs.scheduler_job_runner.SchedulerJobRunner"


def ended(number: int, tried: int = 1) -> Ended:
    row = ReportedRow(
        run=1,
        dag_id="dag",
        task_id=f"task_{number}",
        run_id="run",
        map_index=-1,
        id=UUID(int=number),
        state="success",
        try_number=1,
        max_tries=0,
        queued_by_job_id=1,
        start_date=None,
        end_date=None,
        duration=None,
        pool="default_pool",
        queue="default",
        priority_weight=None,
        operator="EmptyOperator",
        queued_dttm=None,
        scheduled_dttm=None,
        pid=None,
        updated_at=None,
    )
    return Ended(row, TaskInstanceKey("dag", row.task_id, "run", tried, -1), TaskInstanceState.SUCCESS)


async def written(count: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the records that so many ends make; each end has its line in one of them."""
    with caplog.at_level(logging.INFO, LOGGER):
        await FinishedLog("an executor", job_id=1).write([ended(number) for number in range(count)])
    records = [record.getMessage() for record in caplog.records]
    lines = [line for record in records for line in record.splitlines()]
    assert len(lines) == count
    for number, line in enumerate(lines):
        assert line.startswith(f"TaskInstance Finished: dag_id=dag, task_id=task_{number}, run_id=run, ")
        assert ", executor=an executor, executor_state=success, try_number=1, " in line
    return records


@pytest.mark.parametrize(
    ("count", "records"), [(0, 0), (1, 1), (ALONE, ALONE), (ALONE + 1, 1), (TOGETHER + 1, 2)]
)
async def test_many_share_records(count: int, records: int, caplog: pytest.LogCaptureFixture) -> None:
    assert len(await written(count, caplog)) == records


async def test_in_json_each_has_its_object(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__JSON_LOGS", "True")
    assert len(await written(ALONE + 1, caplog)) == ALONE + 1


async def test_another_try_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, LOGGER):
        await FinishedLog("an executor", job_id=1).write([ended(0, tried=2)])
    (record,) = caplog.records
    assert (
        "db_try_number=1 event_try_number=2 ti=<TaskInstance: dag.task_0 run [success]" in record.getMessage()
    )
