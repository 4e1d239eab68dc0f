"""The counters at the driver, against statements whose number is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from poc_bench.figures import sum_buckets
from poc_bench.probes.counters import Counters
from poc_bench.probes.driver import RETRIES, count_retries, wrap_dialects

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Counters:
    """Counters around every dialect, for the length of the test."""
    counters = Counters()
    wrap_dialects(counters, replace=lambda owner, name, method: monkeypatch.setattr(owner, name, method))
    return counters


def sums(counters: Counters, folder: Path) -> tuple[dict[str, float], dict[str, int]]:
    counters.write(folder)
    content = json.loads(next(folder.glob("counters-*.json")).read_text())
    return sum_buckets([content], 0, 1e12), content["sqlstates"]


def test_blocking_driver(counters: Counters, database: Database, tmp_path: Path) -> None:
    engine = create_engine(database.url("psycopg2"), pool_pre_ping=True)
    for _ in range(2):
        with engine.begin() as connection:
            connection.execute(text("SELECT generate_series(1, 5)"))
    found, _ = sums(counters, tmp_path)
    engine.dispose()
    before = found["statements"] - 2  # what the dialect asks of a new connection
    assert found["rows"] - 10 == before
    assert (found["commits"], found["pings"], found["hidden_commits"]) == (2, 1, 2)
    # BEGIN, statement and COMMIT twice; one ping; the dialect's own statements between BEGIN and ROLLBACK
    assert found["round_trips"] == 6 + 1 + before + 2


async def test_driver_on_an_event_loop(counters: Counters, database: Database, tmp_path: Path) -> None:
    engine = create_async_engine(database.url("asyncpg"))
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
    async with engine.connect() as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT 1 / 0"))
    await engine.dispose()
    found, sqlstates = sums(counters, tmp_path)
    assert (found["commits"], found["errors"]) == (1, 1)
    assert sqlstates == {"22012": 1}


def test_busy_time_counts_statements_that_overlap_once(tmp_path: Path) -> None:
    counters = Counters()
    outer = counters.begin()
    inner = counters.begin()
    counters.end(inner, {"statements": 1})
    counters.end(outer, {"statements": 1})
    found, _ = sums(counters, tmp_path)
    assert found["statements"] == 2
    assert found["busy_seconds"] <= found["seconds"]


def test_retries_of_airflows_own_code_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.utils import retries

    counters = Counters()
    count_retries(counters, monkeypatch.setattr)
    attempts = retries.run_with_db_retries(3)
    monkeypatch.setattr(attempts, "wait", lambda _state: 0)
    tries = 0
    for attempt in attempts:
        with attempt:
            tries += 1
            if tries < 3:
                raise DBAPIError("statement", None, Exception("deadlock"))
    counters.write(tmp_path)
    (written,) = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert [value for _, value in written["stats"][RETRIES]] == [1, 1]
