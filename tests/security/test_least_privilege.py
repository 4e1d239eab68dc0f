"""The scheduler works as the role that ``docs/operations.md`` describes, and that role can do no more."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import psycopg2
import pytest
from airflow.jobs.job import Job, JobState
from airflow.models.asset import AssetDagRunQueue, AssetModel
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.taskinstance import TaskInstance
from airflow.models.variable import Variable
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset
from airflow.sdk.definitions.deadline import VariableInterval
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import func, select, update

from tests.support.airflow_db import airflow_on
from tests.support.dags import EPOCH, create_run, dag_with_deadline, layered_dag, scheduled_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.postgres import Database
from tests.support.scheduler import FAST, assembled, run_until_idle

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey

    from async_scheduler.settings import Algorithm

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
ROLE = "airflow_scheduler"


@dataclass(frozen=True, slots=True)
class AsRole(Database):
    """The same database, seen by another role."""

    role: str = ROLE

    def url(self, driver: str) -> str:
        return super(AsRole, self).url(driver).replace("postgres:@", f"{self.role}:@")


def _documented(role: str) -> str:
    """Return the SQL that the document gives, for a role of the name *role*."""
    (block,) = re.findall(r"```sql\n(CREATE ROLE.*?)```", OPERATIONS.read_text(), re.DOTALL)
    return str(block).replace(ROLE, role)


def _as_owner(database: Database, statement: str) -> list[tuple[Any, ...]]:
    dsn = database.url("psycopg2").replace("+psycopg2", "")
    with closing(psycopg2.connect(dsn)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def limited(database: Database) -> Iterator[AsRole]:
    """The test's database, which Airflow in this process reaches as the documented role."""
    role = f"{ROLE}_{database.name}"
    with airflow_on(database):
        _write_work()
    _as_owner(database, _documented(role))
    limited = AsRole(database.name, database.socket_dir, role)
    try:
        with airflow_on(limited):
            yield limited
    finally:
        _as_owner(database, f"DROP OWNED BY {role}; DROP ROLE {role}")


def _write_work() -> None:
    """Something of everything that makes a scheduler write."""
    Variable.set("minutes", "-5")
    with DAG("by_asset", start_date=EPOCH, schedule=[Asset("a")]) as by_asset:
        EmptyOperator(task_id="task")
    with DAG("retries", start_date=EPOCH, schedule=None) as retries:
        EmptyOperator(task_id="again", retries=2, retry_delay=timedelta(0), on_execute_callback=print)
    write_dags(
        *(layered_dag("layers", [3, 3]), layered_dag("orphans", [3]), scheduled_dag("due")),
        *(dag_with_deadline("deadline", VariableInterval("minutes")), by_asset, retries),
    )
    for name in ("layers", "retries"):
        create_run(name)
    create_run("orphans", state="running")
    with create_session() as session:
        dead = Job(job_type="SchedulerJob", state=JobState.FAILED)
        session.add(dead)
        session.flush()
        orphans = update(TaskInstance).where(TaskInstance.dag_id == "orphans")
        session.execute(orphans.values(state="queued", queued_by_job_id=dead.id, try_number=1))
        asset = session.scalars(select(AssetModel)).one()
        session.add(AssetDagRunQueue(asset_id=asset.id, target_dag_id="by_asset"))


class LosesSome(InstantExecutor):
    """Reports the first try of a task that may be tried again as lost; the scheduler has to act."""

    def _run(self, key: TaskInstanceKey, ti_id: Any) -> None:
        if key.task_id == "again" and key.try_number == 1:
            self.change_state(key, TaskInstanceState.FAILED)
            return
        super()._run(key, ti_id)


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
async def test_each_routine_passes(
    limited: AsRole, algorithm: Algorithm, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = "airflow.jobs.scheduler_job_runner.SchedulerJobRunner._is_metrics_enabled"
    with patch(metrics, return_value=True), caplog.at_level(logging.WARNING):
        async with assembled(InstantExecutor(), settings=replace(FAST, algorithm=algorithm)) as assembly:
            for driver in assembly.supervisor.drivers.values():
                await driver.routine.run_once()
    assert "permission denied" not in caplog.text


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
def test_work_is_done(limited: AsRole, algorithm: Algorithm, caplog: pytest.LogCaptureFixture) -> None:
    settings = replace(FAST, algorithm=algorithm)
    with caplog.at_level(logging.WARNING):
        run_until_idle([LosesSome()], settings, idle_rounds=6)
    assert "permission denied" not in caplog.text
    with create_session() as session:
        runs = {(name, state) for name, state in session.execute(select(DagRun.dag_id, DagRun.state))}
        retried = session.scalar(select(TaskInstance.try_number).where(TaskInstance.task_id == "again"))
        missed = session.scalar(select(func.count()).where(Deadline.missed))
    assert runs == {
        (name, "success") for name in ("layers", "retries", "orphans", "due", "deadline", "by_asset")
    }
    assert retried == 2
    assert missed in (0, 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE serialized_dag SET dag_hash = 'x'",
        "UPDATE variable SET val = 'x'",
        "INSERT INTO connection (conn_id, conn_type) VALUES ('x', 'http')",
        "UPDATE slot_pool SET slots = 1",
        "DELETE FROM dag_run",
        "DELETE FROM log",
        "DELETE FROM job",
        "SELECT * FROM revoked_token",
        "CREATE TABLE mine (x int)",
        "TRUNCATE task_instance",
    ],
)
def test_role_can_do_no_more(limited: AsRole, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        _as_owner(limited, statement)


def test_document_names_every_table_once_for_each_right(limited: AsRole) -> None:
    tables = {
        row[0] for row in _as_owner(limited, "SELECT relname FROM pg_class WHERE relkind IN ('r', 'S')")
    }
    for right, names in re.findall(r"GRANT (\w+) ON\n(.*?)\n    TO", _documented(ROLE), re.DOTALL):
        listed = [name.strip() for name in names.split(",")]
        assert listed == sorted(set(listed)), right
        assert set(listed) <= tables
