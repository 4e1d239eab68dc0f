"""Deadlines whose interval is a variable: found before the transaction, and the scheduler survives them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from airflow.models.asset import AssetDagRunQueue, AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.deadline_alert import DeadlineAlert as DeadlineAlertModel
from airflow.models.variable import Variable
from airflow.sdk import Asset
from airflow.sdk.definitions.deadline import VariableInterval
from airflow.serialization.definitions.deadline import SerializedVariableInterval
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, update
from sqlalchemy.orm.exc import DetachedInstanceError

from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.deadlines import (
    NEW_ALERTS_AFTER,
    DeadlineVariables,
    any_variable_interval,
    variable_key,
    variable_keys_of_due_dags,
)
from async_scheduler.secrets.metastore import AsyncMetastoreBackend
from async_scheduler.secrets.preload import recall
from async_scheduler.secrets.source import Lookup
from async_scheduler.secrets.upstream import RoutedBackend
from async_scheduler.settings import Algorithm, Mode, Settings
from tests.support.dags import create_run, dag_with_deadline, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_stock_until_idle, run_until_idle

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from tests.support.postgres import Database

    Sessions = async_sessionmaker[AsyncSession]


def test_the_key_is_read_from_both_forms_of_a_serialized_interval() -> None:
    from airflow.sdk.serde import serialize

    assert variable_key(serialize(VariableInterval("key"))) == "key"
    assert variable_key(serialize(SerializedVariableInterval("key"))) == "key"
    assert variable_key(serialize(timedelta(minutes=5))) is None
    assert variable_key(300.0) is None  # as older versions stored it


async def test_keys_of_due_dags(sessions: Sessions) -> None:
    write_dags(
        dag_with_deadline("due", VariableInterval("due_key")),
        dag_with_deadline("fixed", timedelta(minutes=5)),
        dag_with_deadline("later", VariableInterval("later_key")),
        dag_with_deadline("paused", VariableInterval("paused_key")),
        dag_with_deadline("stale", VariableInterval("stale_key")),
        dag_with_deadline("asset", VariableInterval("asset_key"), schedule=[Asset("it")]),
        dag_with_deadline("untriggered", VariableInterval("untriggered_key"), schedule=[Asset("other")]),
    )
    with create_session() as session:
        changes: dict[str, dict[str, Any]] = {
            "later": {"next_dagrun_create_after": datetime(2100, 1, 1, tzinfo=UTC)},
            "paused": {"is_paused": True},
            "stale": {"is_stale": True},
        }
        for dag_id, values in changes.items():
            session.execute(update(DagModel).where(DagModel.dag_id == dag_id).values(values))
        asset = session.scalars(select(AssetModel).where(AssetModel.name == "it")).one()
        session.add(AssetDagRunQueue(asset_id=asset.id, target_dag_id="asset"))
    async with sessions() as session_:
        keys = await variable_keys_of_due_dags(session_, datetime.now(UTC))
    assert keys == {"due_key", "asset_key"}


async def test_the_latest_version_of_a_dag_counts(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    for number in range(3):
        monkeypatch.setenv(f"AIRFLOW_VAR_KEY_{number}", "60")
        write_dags(dag_with_deadline("dag", VariableInterval(f"key_{number}")))
        create_run("dag", number)  # a version that has runs is kept
    with create_session() as session:
        assert session.scalar(select(func.count()).select_from(DeadlineAlertModel)) == 3
    async with sessions() as session_:
        assert await variable_keys_of_due_dags(session_, datetime.now(UTC)) == {"key_2"}


class Counting:
    """Opens sessions and counts them."""

    def __init__(self, sessions: Sessions) -> None:
        self.opened = 0
        self._sessions = sessions

    def __call__(self) -> AsyncSession:
        self.opened += 1
        return self._sessions()


async def test_variables_are_loaded_for_the_block(sessions: Sessions) -> None:
    write_dags(
        dag_with_deadline("due", VariableInterval("key")), dag_with_deadline("d", VariableInterval("no"))
    )
    with create_session() as session:
        session.add(Variable("key", "60"))
    chain = AsyncSecretsChain([AsyncMetastoreBackend(sessions)])
    async with DeadlineVariables(chain, sessions).loaded():
        assert recall(Lookup("variable", "key")) == "60"
        assert recall(Lookup("variable", "no")) is None


async def test_where_no_deadline_has_a_variable_it_asks_seldom(sessions: Sessions) -> None:
    now, read = 0.0, Counting(sessions)
    variables = DeadlineVariables(AsyncSecretsChain([]), read, clock=lambda: now)
    for _ in range(10):
        async with variables.loaded():
            pass
    assert read.opened == 1
    now += NEW_ALERTS_AFTER
    async with variables.loaded():
        pass
    assert read.opened == 2
    async with sessions() as session:
        assert not await any_variable_interval(session)


@pytest.mark.parametrize(
    ("algorithm", "mode"),
    [
        ("upstream", "concurrent"),
        ("upstream", "sequential"),
        ("upstream", "shared_session"),
        ("redesigned", "concurrent"),
    ],
)
def test_a_dag_with_such_a_deadline_runs_to_its_end(
    airflow_db: Database, algorithm: Algorithm, mode: Mode
) -> None:
    _write_a_due_dag_with_its_variable()
    routed: list[RoutedBackend] = []
    with patch.object(RoutedBackend, "begin", autospec=True, side_effect=_begin_and_keep(routed)):
        run_until_idle(
            [InstantExecutor()], Settings(algorithm=algorithm, mode=mode, executor_poll_interval=0.02)
        )
    with create_session() as session:
        run = session.scalars(select(DagRun)).one()
        assert run.state == DagRunState.SUCCESS
        assert session.scalars(select(Deadline.deadline_time)).one() == run.queued_at  # missed, so it is kept
    counts = routed[0].counts
    assert (counts.from_memory, counts.inside_routine, counts.blocking) == (1, 0, 0)


def test_such_a_deadline_ends_the_stock_scheduler(airflow_db: Database) -> None:
    """What #68917 reports; when this fails, Airflow has mended it."""
    _write_a_due_dag_with_its_variable()
    with pytest.raises(DetachedInstanceError):
        run_stock_until_idle([InstantExecutor()])


def _write_a_due_dag_with_its_variable() -> None:
    write_dags(dag_with_deadline("dag", VariableInterval("deadline_seconds")))
    with create_session() as session:
        session.add(Variable("deadline_seconds", "0"))


def _begin_and_keep(kept: list[RoutedBackend]) -> Callable[[RoutedBackend], None]:
    begin = RoutedBackend.begin

    def begin_and_keep(routed: RoutedBackend) -> None:
        kept.append(routed)
        begin(routed)

    return begin_and_keep
