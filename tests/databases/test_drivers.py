"""Both drivers and both algorithms on PostgreSQL: the workload ends as under the stock scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from async_scheduler.settings import Algorithm, Settings
from tests.databases.workload import end_states, run_ours, write_workload

if TYPE_CHECKING:
    from tests.support.postgres import Database


@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_on_the_embedded_server(
    expected: list[list[Any]],
    airflow_db: Database,
    driver: str,
    algorithm: Algorithm,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", airflow_db.url(driver))
    write_workload()
    run_ours(Settings(algorithm=algorithm, executor_poll_interval=0.02))
    assert end_states() == expected
