"""Through a real PgBouncer in transaction mode, where every transaction may meet another server process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from async_scheduler.database.engine import create_engine
from async_scheduler.database.opening import finds_pooler
from async_scheduler.settings import Algorithm, Settings
from tests.databases.servers import PgBouncer, pgbouncer
from tests.databases.workload import end_states, run_ours, write_workload
from tests.support.airflow_db import airflow_on

if TYPE_CHECKING:
    from tests.support.postgres import Database, Server

PREFIX = "%m [%p] %d "
CARRIED = "client_encoding|application_name|DateStyle|TimeZone|standard_conforming_strings"
"""What PgBouncer itself sets on a server for the client that gets it."""
SESSION_STATE = re.compile(
    rf"statement: (SET (?!TRANSACTION|LOCAL|{CARRIED})|LISTEN|PREPARE|DECLARE .* WITH HOLD)"
    r"|pg_(try_)?advisory_lock",
    re.IGNORECASE,
)
SERVERS = 4
"""Fewer connections than routines that want one, so that they are passed around."""


@pytest.fixture
def behind(database: Database) -> Iterator[PgBouncer]:
    """A PgBouncer before the test's database; Airflow in this process knows no other way to it."""
    with pgbouncer(database.socket_dir, database.name, SERVERS) as started, airflow_on(started):
        yield started


@pytest.fixture
def statements(postgres: Server, database: Database) -> ServerLog:
    """What the server logs of the test's database from now on."""
    return ServerLog(postgres, database)


class ServerLog:
    """The statements that reached the server, with the names they were prepared under."""

    def __init__(self, postgres: Server, database: Database) -> None:
        self._log = postgres.log
        postgres.execute(f"ALTER DATABASE {database.name} SET log_statement = 'all'")
        postgres.execute(f"ALTER SYSTEM SET log_line_prefix = '{PREFIX}'")
        postgres.execute("SELECT pg_reload_conf()")
        self._name = database.name
        self._begin = self._log.stat().st_size

    def lines(self) -> list[str]:
        """Return the first line of each statement on the test's database."""
        with self._log.open() as file:
            file.seek(self._begin)
            return [line for line in file if f" {self._name} " in line]


@pytest.mark.parametrize("algorithm", ["redesigned", pytest.param("upstream", marks=pytest.mark.faults)])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_the_workload_passes_through(
    expected: list[list[Any]],
    statements: ServerLog,
    behind: PgBouncer,
    driver: str,
    algorithm: Algorithm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", behind.url(driver))
    write_workload()
    run_ours(Settings(algorithm=algorithm, executor_poll_interval=0.02))
    assert end_states() == expected
    seen = statements.lines()
    assert [line for line in seen if "execute" in line], "the log shows the statements"
    named = [line for line in seen if re.search(r"execute (?!<unnamed>)\S+:", line)]
    assert named == []
    assert [line for line in seen if SESSION_STATE.search(line)] == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_pooler_is_found_out_by_itself(
    airflow_db: Database, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", airflow_db.url(driver))
    assert not await finds_pooler(300.0)
    with pgbouncer(airflow_db.socket_dir, airflow_db.name, SERVERS) as started:
        monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", started.url(driver))
        assert await finds_pooler(300.0)


async def test_autocommit_reads_work_on_any_server(behind: PgBouncer) -> None:
    """The secrets chain reads in autocommit mode: two messages of one statement may meet two servers."""
    from sqlalchemy import text

    engine = create_engine(8, 300.0, pgbouncer=True, reads_only=True)
    options = {"isolation_level": "AUTOCOMMIT"}

    async def read(number: int) -> int:
        async with engine.connect() as connection:
            await connection.execution_options(**options)
            found = [
                await connection.scalar(text("SELECT CAST(:n AS int)"), {"n": number}) for _ in range(20)
            ]
            return len([one for one in found if one == number])

    import asyncio

    assert await asyncio.gather(*map(read, range(8))) == [20] * 8
    await engine.dispose()


@pytest.mark.faults
def test_a_trace_can_be_written(behind: PgBouncer, tmp_path: Path) -> None:
    write_workload(dags=1, runs=2)
    run_ours(Settings(algorithm="redesigned", executor_poll_interval=0.02, trace_directory=str(tmp_path)))
    assert {row[3] for row in end_states() if row[0] == "run"} == {"success", "failed"}, "as scripted"
    assert list(tmp_path.glob("*"))
