"""What asyncpg is told of array types is what the server says, and it asks no more."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from async_scheduler.database.asyncpg_types import ARRAYS, Connection
from tests.databases.every_statement import run_all

if TYPE_CHECKING:
    from tests.support.postgres import Database

VALUES: dict[str, list[Any]] = {
    "bool": [True, False, None],
    "bytea": [b"\x00\xff"],
    "date": [date(2026, 11, 28)],
    "float4": [0.5],
    "float8": [0.1, -1e300],
    "int2": [-1, 32767],
    "int4": [2**31 - 1],
    "int8": [-(2**63)],
    "interval": [timedelta(days=1, microseconds=1)],
    "json": ['{"a": [1]}'],
    "jsonb": ['{"a": [1]}'],
    "numeric": [Decimal("1.10")],
    "text": ['a "quoted", {braced}', "", None, "\\"],
    "timestamp": [datetime(2026, 11, 28)],
    "timestamptz": [datetime(2026, 11, 28, tzinfo=UTC)],
    "uuid": [UUID(int=1), None],
    "varchar": ['a "quoted", {braced}', "\u202eright to left", None],
}


async def connect(database: Database) -> Connection:
    connection: Connection = await asyncpg.connect(
        host=database.socket_dir, user="postgres", database=database.name, connection_class=Connection
    )
    return connection


@pytest.fixture
def asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_: Any, typeoids: Any, __: Any) -> None:
        raise AssertionError(f"the server is asked about {list(typeoids)}")

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", refuse)


async def test_the_catalogue_says_the_same(airflow_db: Database) -> None:
    connection = await connect(airflow_db)
    try:
        rows = await connection.fetch(
            "SELECT arrays.oid::int8, arrays.typelem::int8, elements.typname::text, arrays.typname::text, "
            "arrays.typtype::text, elements.typdelim::text, arrays.typnamespace::regnamespace::text "
            "FROM pg_type arrays JOIN pg_type elements ON elements.oid = arrays.typelem "
            f"WHERE arrays.oid IN ({', '.join(map(str, ARRAYS))})"
        )
    finally:
        await connection.close()
    assert {tuple(row) for row in rows} == {
        (oid, element, name, f"_{name}", "b", ",", "pg_catalog") for oid, (element, name) in ARRAYS.items()
    }


@pytest.mark.usefixtures("asks_nothing")
async def test_values_come_back_as_they_were(airflow_db: Database) -> None:
    connection = await connect(airflow_db)
    try:
        for _, name in ARRAYS.values():
            values = VALUES[name]
            back = await connection.fetchval(f"SELECT $1::{name}[]", values)
            assert back == values, name
            assert await connection.fetchval(f"SELECT $1::{name}[] IS NULL", None)
    finally:
        await connection.close()


@pytest.mark.usefixtures("asks_nothing")
@pytest.mark.parametrize("pgbouncer", [False, True], ids=["prepared", "unprepared"])
async def test_no_statement_of_ours_makes_it_ask(
    airflow_db: Database, pgbouncer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow import settings

    monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN_ASYNC", airflow_db.url("asyncpg"))
    outcome = await run_all(pgbouncer=pgbouncer)
    assert {name: error for name, error in outcome.items() if error} == {}


async def test_other_types_are_asked_for(airflow_db: Database) -> None:
    connection = await connect(airflow_db)
    try:
        # One that is known beside one that is not: both are asked for.
        row = await connection.fetchrow("SELECT $1::inet[], $2::int4[]", ["::1"], [1])
        assert row is not None
        assert row[1] == [1]
    finally:
        await connection.close()
