"""The database fixture itself: a migrated clone, reachable by both drivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from tests.support.postgres import Database


async def test_clone_holds_airflows_schema_for_both_drivers(database: Database) -> None:
    engine = create_engine(database.url("psycopg2"))
    assert "task_instance" in inspect(engine).get_table_names()
    engine.dispose()
    async_engine = create_async_engine(database.url("asyncpg"))
    async with async_engine.connect() as connection:
        assert await connection.scalar(select(func.current_database())) == database.name
    await async_engine.dispose()
