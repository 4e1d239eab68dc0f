"""What follows a run's end is not lost to a fault: its callback, and the flag that held its dag back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.callback import Callback
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import select, text

from async_scheduler.routines.redesigned import create
from async_scheduler.settings import Algorithm, Settings
from tests.support.dags import EPOCH, create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_until_idle

if TYPE_CHECKING:
    from tests.support.postgres import Database

FAILS_ONCE = """
CREATE FUNCTION fail_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF nextval('attempts') = 1 THEN RAISE EXCEPTION 'planted' USING ERRCODE = '40P01'; END IF;
    RETURN NEW; END $$
"""


def _callback(_context: Any) -> None:
    return None


def _let_fail_once(event: str) -> None:
    with create_session() as session:
        session.execute(text("CREATE SEQUENCE attempts"))  # counts what is rolled back too
        session.execute(text(FAILS_ONCE))
        session.execute(text(f"CREATE TRIGGER fail_once {event} EXECUTE FUNCTION fail_once()"))


def _settings(algorithm: Algorithm) -> Settings:
    return Settings(algorithm=algorithm, event_loop="asyncio", executor_poll_interval=0.02)


@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
def test_a_run_ends_with_its_callback_or_not_at_all(airflow_db: Database, algorithm: Algorithm) -> None:
    write_dags(layered_dag("dag", [2, 1], on_success_callback=_callback))
    create_run("dag")
    _let_fail_once("BEFORE INSERT ON callback FOR EACH ROW")
    run_until_idle([InstantExecutor()], _settings(algorithm))
    with create_session() as session:
        assert session.scalars(select(DagRun.state)).all() == ["success"]
        assert len(session.scalars(select(Callback)).all()) == 1
        assert session.scalar(text("SELECT last_value FROM attempts")) == 2


def test_a_flag_that_was_not_corrected_holds_its_dag_back_for_a_moment_only(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(create, "LIFT_EVERY", 0.0)
    with DAG(
        "dag",
        start_date=EPOCH,
        end_date=EPOCH + timedelta(days=2),
        schedule=timedelta(days=1),
        catchup=True,
        max_active_runs=1,
    ) as dag:
        EmptyOperator(task_id="task", retries=1)
    write_dags(dag)
    lifted = "OLD.exceeds_max_non_backfill AND NOT NEW.exceeds_max_non_backfill"
    _let_fail_once(f"BEFORE UPDATE ON dag FOR EACH ROW WHEN ({lifted})")
    run_until_idle([InstantExecutor()], _settings("redesigned"), idle_rounds=5)
    with create_session() as session:
        assert session.scalars(select(DagRun.state)).all() == ["success"] * 3
        assert session.scalars(select(DagModel.exceeds_max_non_backfill)).all() == [False]
