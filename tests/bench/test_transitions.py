"""What the worker simulator writes for a batch, against a real server: in one statement, and in several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.taskmap import TaskMap
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import create_engine, select, update

from poc_bench.executor import transitions
from poc_bench.executor.transitions import Writer
from tests.support.dags import create_run, layered_dag, write_dags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from tests.support.postgres import Database


@pytest.fixture(params=["at once", "several"])
def writer(airflow_db: Database, request: pytest.FixtureRequest, monkeypatch: Any) -> Iterator[Writer]:
    """A writer as the simulator has it, and one that does as on other databases."""
    assert settings.engine is not None
    engine = create_engine(settings.engine.url, isolation_level="AUTOCOMMIT")
    writer = Writer(engine)
    if request.param == "several":
        writer._at_once = False
        writer._engine = writer._joined
        writer._now_is_naive = False
        monkeypatch.setattr(transitions, "_seconds_since_start", lambda *_: 1.0)
    yield writer
    engine.dispose()


@pytest.fixture
def ids(airflow_db: Database) -> dict[str, UUID]:
    """Five queued task instances of a run, by the last letter of their names."""
    write_dags(layered_dag("dag", [5]))
    create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="queued", try_number=1, max_tries=1))
        return {
            task_id[-1]: one
            for task_id, one in session.execute(select(TaskInstance.task_id, TaskInstance.id))
        }


def states() -> dict[str, str | None]:
    """The state of each task instance."""
    with create_session() as session:
        return {
            task_id[-1]: state
            for task_id, state in session.execute(select(TaskInstance.task_id, TaskInstance.state))
        }


def logged() -> list[tuple[str, str]]:
    """The audit rows, in order."""
    with create_session() as session:
        return sorted(
            (task_id[-1], event) for task_id, event in session.execute(select(Log.task_id, Log.event))
        )


def test_a_batch_from_queued_to_its_ends(writer: Writer, ids: dict[str, UUID]) -> None:
    with create_session() as session:
        session.execute(update(TaskInstance).where(TaskInstance.id == ids["4"]).values(state="success"))
    started, refused = writer.start(list(ids.values()))
    assert sorted(row.task_id[-1] for row in started) == ["0", "1", "2", "3"]
    assert [row.state for row in refused] == ["success"]
    assert states() == {**dict.fromkeys("0123", "running"), "4": "success"}
    assert logged() == [(letter, "running") for letter in "0123"]
    with create_session() as session:
        first = session.get_one(TaskInstance, ids["0"])
        assert (first.hostname, first.end_date) == ("bench-worker", None)
        assert first.start_date == first.last_heartbeat_at == first.updated_at
    outcomes = {ids["0"]: "success", ids["1"]: "failed", ids["2"]: "up_for_retry", ids["4"]: "failed"}
    written = writer.finish(outcomes, {ids["0"]: 3})
    assert sorted((row.task_id[-1], row.state) for row in written) == [
        *((letter, "running") for letter in "012"),
        ("4", "success"),
    ]
    ends = {"0": "success", "1": "failed", "2": "up_for_retry"}
    assert states() == {**ends, "3": "running", "4": "success"}
    assert logged() == sorted([*((letter, "running") for letter in "0123"), *ends.items()])
    with create_session() as session:
        assert session.scalars(select(TaskMap.length)).all() == [3]
        assert session.scalars(select(TaskInstanceHistory.task_instance_id)).all() == [ids["2"]]
        assert session.scalars(select(TaskInstanceHistory.state)).all() == ["failed"]
        assert session.get(TaskInstance, ids["2"]) is None, "the next try has an id of its own"
        first = session.get_one(TaskInstance, ids["0"])
        assert first.end_date == first.updated_at
        assert first.duration is not None
        assert first.duration > 0


def test_rows_that_somebody_holds_are_left_out(writer: Writer, ids: dict[str, UUID]) -> None:
    with create_session(scoped=False) as somebody:
        somebody.execute(select(TaskInstance).where(TaskInstance.id == ids["0"]).with_for_update())
        started, refused = writer.start([ids["0"], ids["1"]])
        assert ([row.id for row in started], refused) == ([ids["1"]], [])
    writer.start([ids["0"]])
    with create_session(scoped=False) as somebody:
        somebody.execute(select(TaskInstance).where(TaskInstance.id == ids["0"]).with_for_update())
        written = writer.finish(dict.fromkeys((ids["0"], ids["1"]), "success"), {})
        assert [row.id for row in written] == [ids["1"]]
    assert (states()["0"], states()["1"]) == ("running", "success")
