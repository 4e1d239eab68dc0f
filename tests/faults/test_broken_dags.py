"""A dag that cannot be read or whose timetable raises is skipped, said once, and harms no other."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import func, select, text

from tests.support.dags import create_run, layered_dag, scheduled_dag, write_dags
from tests.support.process import Schedulers, schedulers_on
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.postgres import Database

BROKEN = ("corrupt_form", "no_form", "no_version", "broken_timetable")


@pytest.fixture
def schedulers(airflow_db: Database, tmp_path: Path) -> Iterator[Schedulers]:
    with schedulers_on(airflow_db, tmp_path) as starter:
        yield starter


def _write() -> None:
    write_dags(
        *(layered_dag(name, [2, 2]) for name in (*BROKEN[:3], "good")), scheduled_dag("broken_timetable")
    )
    for name in (*BROKEN[:3], "good"):
        for number in range(3):
            create_run(name, number, state="running" if number else "queued")


def _break() -> None:
    with create_session() as session:
        stored = session.execute(
            text("SELECT id, data FROM serialized_dag WHERE dag_id = 'broken_timetable'")
        ).one()
        data = stored.data if isinstance(stored.data, dict) else json.loads(stored.data)
        data["dag"]["timetable"] = {"__type": "nobody.knows.this", "__var": {}}
        session.execute(
            text("UPDATE serialized_dag SET data = cast(:data AS json) WHERE id = :id"),
            {"data": json.dumps(data), "id": stored.id},
        )
        for statement in (
            """UPDATE serialized_dag SET data = '{"__version": 3, "dag": {"tasks": "no"}}'
               WHERE dag_id = 'corrupt_form'""",
            "DELETE FROM serialized_dag WHERE dag_id = 'no_form'",
            "SET LOCAL session_replication_role = replica",  # as a careless clean-up leaves it
            "DELETE FROM dag_version WHERE dag_id = 'no_version'",
            "DELETE FROM serialized_dag WHERE dag_id = 'no_version'",
        ):
            session.execute(text(statement))


def _good_runs_ended() -> bool:
    with create_session() as session:
        good = select(func.count()).where(DagRun.dag_id == "good", DagRun.state == "success")
        return bool(session.scalar(good) == 3)


def test_broken_dags_are_skipped_and_the_others_go_on(schedulers: Schedulers) -> None:
    _write()
    _break()
    process = schedulers.start("--async", AIRFLOW__ASYNC_SCHEDULER__ALGORITHM="redesigned")
    wait_until(_good_runs_ended)
    write_dags(layered_dag("after", [2]))
    create_run("after")
    wait_until(lambda: any(task.startswith("after ") for _, task in schedulers.runs()))
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.text
    assert {task.split()[0] for _, task in schedulers.runs()} == {"good", "after"}
    for name in BROKEN[:3]:
        assert process.text.count(f"DAG '{name}' not found in serialized_dag table") == 1


def test_airflows_own_start_ends_with_a_clear_message(schedulers: Schedulers) -> None:
    """As the stock scheduler does, whose function it is."""
    _write()
    _break()
    process = schedulers.start("--async", AIRFLOW__ASYNC_SCHEDULER__ALGORITHM="upstream")
    assert process.wait() == 1, process.text
    assert process.text.count("airflow scheduler --async: Routine 'start' failed: DeserializationError") == 1
