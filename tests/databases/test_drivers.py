"""Both drivers and both algorithms on PostgreSQL: every statement, and a workload that ends as it should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from async_scheduler.database.engine import create_engine
from async_scheduler.settings import Algorithm, Settings
from tests.databases.every_statement import run_all
from tests.databases.servers import Postgres, postgres_server
from tests.databases.workload import end_states, run_ours, write_workload
from tests.support.airflow_db import airflow_on
from tests.support.postgres import migrate

if TYPE_CHECKING:
    from tests.support.postgres import Database

FAULTS = pytest.mark.faults
DRIVERS = ("asyncpg", "psycopg")
ARMS = [
    ("asyncpg", "redesigned"),
    ("psycopg", "redesigned"),
    pytest.param("asyncpg", "upstream", marks=FAULTS),
    pytest.param("psycopg", "upstream", marks=FAULTS),
]


def run_by(driver: str, url: str, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Run the workload by *driver* and return how it ended."""
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", url)
    assert create_engine(1, 300.0).dialect.driver == driver
    write_workload()
    run_ours(Settings(algorithm=algorithm, executor_poll_interval=0.02))
    return end_states()


@pytest.mark.parametrize(("driver", "algorithm"), ARMS)
def test_on_the_embedded_server(
    expected: list[list[Any]],
    airflow_db: Database,
    driver: str,
    algorithm: Algorithm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_by(driver, airflow_db.url(driver), algorithm, monkeypatch) == expected


@pytest.mark.parametrize("pgbouncer", [False, True], ids=["prepared", "unprepared"])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_statement_runs(
    airflow_db: Database, driver: str, pgbouncer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", airflow_db.url(driver))
    outcome = await run_all(pgbouncer=pgbouncer)
    assert outcome
    assert {name: error for name, error in outcome.items() if error} == {}


@pytest.fixture(scope="module")
def debians(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Debian's PostgreSQL, an older release than the embedded one, with Airflow's schema in a template.

    Or another one: see ``POSTGRES_PROGRAMS``.
    """
    with postgres_server({}, "", {}) as server:
        server.run("CREATE DATABASE template")
        migrate(server.named("template"), tmp_path_factory.mktemp("home"))
        yield server


@pytest.fixture
def on_debians(debians: Postgres) -> Iterator[Postgres]:
    """Airflow in this process is on a fresh database of that server."""
    debians.run("DROP DATABASE IF EXISTS fresh WITH (FORCE)")
    debians.run("CREATE DATABASE fresh TEMPLATE template")
    with airflow_on(debians.named("fresh")):
        yield debians


@pytest.mark.parametrize("driver", DRIVERS)
async def test_every_statement_runs_on_debians_server(
    on_debians: Postgres, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", on_debians.url(driver, "fresh"))
    outcome = await run_all()
    assert outcome
    assert {name: error for name, error in outcome.items() if error} == {}


@pytest.mark.parametrize(
    ("driver", "algorithm"),
    [
        ("asyncpg", "redesigned"),
        *(
            pytest.param(*arm, marks=FAULTS)
            for arm in (("psycopg", "redesigned"), ("asyncpg", "upstream"), ("psycopg", "upstream"))
        ),
    ],
)
def test_on_debians_server(
    expected: list[list[Any]],
    on_debians: Postgres,
    driver: str,
    algorithm: Algorithm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_by(driver, on_debians.url(driver, "fresh"), algorithm, monkeypatch) == expected
