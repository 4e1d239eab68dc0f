"""MariaDB by aiomysql: one scheduler, every statement, a whole workload, and what errors are taken for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.engine import create_engine
from async_scheduler.database.faults import Fault, classify
from tests.databases.processes import run
from tests.databases.servers import MariaDB, mariadb_server
from tests.support.postgres import migrate
from tests.support.process import schedulers_on
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

pytestmark = pytest.mark.xdist_group("mariadb")
FAULTS = pytest.mark.faults


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A server with Airflow's schema in a template."""
    if find_spec("MySQLdb") is None:
        pytest.skip(
            "needs mysqlclient: apt-get install libmariadb-dev pkg-config gcc; pip install mysqlclient"
        )
    with mariadb_server() as server:
        home = tmp_path_factory.mktemp("mariadb")
        migrate(server, home)
        server.keep_template()
        yield server


@pytest.fixture
def database(mariadb: MariaDB) -> MariaDB:
    """The server, its database as freshly migrated."""
    mariadb.restore()
    return mariadb


def test_every_statement_runs(database: MariaDB, tmp_path: Path) -> None:
    outcome, _ = run(database, tmp_path, "every_statement")
    assert outcome
    assert {name: error for name, error in outcome.items() if error} == {}


@pytest.mark.parametrize("algorithm", ["redesigned", pytest.param("upstream", marks=FAULTS)])
def test_the_workload_ends_as_under_the_stock_scheduler(
    expected: list[list[Any]], database: MariaDB, tmp_path: Path, algorithm: str
) -> None:
    # Airflow's own statement about orphaned assets cannot be run there: it ends the stock scheduler.
    soon = {"AIRFLOW__SCHEDULER__PARSING_CLEANUP_INTERVAL": "1"}
    ended, _ = run(database, tmp_path, "workload", algorithm, "concurrent", **soon)
    assert ended == expected


@pytest.mark.faults
def test_a_second_scheduler_is_refused(database: MariaDB, tmp_path: Path) -> None:
    quick = {"AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1"}
    with schedulers_on(database, tmp_path) as schedulers:
        first = schedulers.start("--async", **quick)
        wait_until(lambda: "Adopting or resetting orphaned tasks" in first.text)
        second = schedulers.start("--async", **quick)
        assert second.wait() == 1
        assert "Only one scheduler may run on this database" in second.text
        assert "(MariaDB)" in second.text
        assert first.poll() is None


@pytest.fixture
async def engine(database: MariaDB, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    """The scheduler's engine."""
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", database.url("aiomysql"))
    engine = create_engine(4, 300.0)
    yield engine
    await engine.dispose()


async def test_each_connection_reads_what_is_committed_in_utc(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        question = "SELECT CONCAT(@@session.transaction_isolation, ' ', @@session.time_zone)"
        if "maria" in str(await connection.scalar(text("SELECT LOWER(VERSION())"))):
            question = "SELECT CONCAT(@@session.tx_isolation, ' ', @@session.time_zone)"
        assert await connection.scalar(text(question)) == "READ-COMMITTED +00:00"


@asynccontextmanager
async def two(engine: AsyncEngine) -> AsyncIterator[tuple[AsyncConnection, AsyncConnection]]:
    """Yield two connections that give up waiting for a lock after a second."""
    async with engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            await connection.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
            await connection.commit()
        yield one, other


POOL = text("UPDATE slot_pool SET slots = slots + 1 WHERE pool = 'default_pool'")


async def fault_of(statement: Any) -> tuple[int, Fault]:
    """Return the server's number for the error of *statement*, and what it is taken for."""
    with pytest.raises(DBAPIError) as raised:
        await statement
    assert raised.value.orig is not None
    return int(raised.value.orig.args[0]), classify(raised.value)


async def test_a_lock_that_is_not_to_be_had(engine: AsyncEngine) -> None:
    async with two(engine) as (holder, waiter):
        await holder.execute(POOL)
        assert await fault_of(waiter.execute(POOL)) == (1205, Fault.LOCKED)
        await waiter.rollback()
        nowait = text("SELECT id FROM slot_pool FOR UPDATE NOWAIT")
        assert (await fault_of(waiter.execute(nowait)))[1] is Fault.LOCKED
        await waiter.rollback()
        await holder.rollback()


async def test_a_deadlock(engine: AsyncEngine) -> None:
    other_pool = "INSERT INTO slot_pool (pool, slots, include_deferred) VALUES ('other', 1, 0)"
    async with engine.begin() as connection:
        await connection.execute(text(other_pool))
    update = "UPDATE slot_pool SET slots = 5 WHERE pool = '{}'"
    async with engine.connect() as one, engine.connect() as two:
        await one.execute(text(update.format("default_pool")))
        await two.execute(text(update.format("other")))
        crossing = asyncio.create_task(one.execute(text(update.format("other"))))
        results = await asyncio.gather(
            crossing, two.execute(text(update.format("default_pool"))), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, DBAPIError)]
        assert [classify(error) for error in errors] == [Fault.DEADLOCK]
        await one.rollback()
        await two.rollback()


async def test_a_connection_that_the_server_ended(engine: AsyncEngine) -> None:
    async with engine.connect() as victim, engine.connect() as killer:
        number = await victim.scalar(text("SELECT connection_id()"))
        await killer.execute(text(f"KILL {number}"))
        number, fault = await fault_of(victim.execute(text("SELECT 1")))
        assert (number in (2006, 2013, 1927), fault) == (True, Fault.DISCONNECTED)
        await victim.invalidate()
