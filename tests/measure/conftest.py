"""Fixtures: an instrument that is always switched off again, and an empty database of the test's own."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from async_scheduler.measure import attribution, registry, stepping
from async_scheduler.measure.instrument import Instrument
from tests.support.postgres import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from async_scheduler.measure.events import Event
    from tests.support.postgres import Server

E = TypeVar("E")


@dataclass
class Records:
    """Everything an instrument recorded."""

    all: list[Event] = field(default_factory=list)

    def of(self, kind: type[E]) -> list[E]:
        """Return the records of one kind, in order."""
        return [record for record in self.all if isinstance(record, kind)]


@pytest.fixture
def instrument() -> Iterator[Instrument]:
    """An instrument; whatever the test did, nothing stays switched on."""
    made = Instrument("test")
    yield made
    made.stop()
    while made.installed:
        made.unwatch()
    assert attribution.sink is None
    assert registry.observer is None
    assert not stepping.enabled


@pytest.fixture
def records(instrument: Instrument) -> Records:
    """What the instrument records from now on."""
    kept = Records()
    instrument.recorder.add(kept.all.append)
    return kept


@pytest.fixture
def empty_database(postgres: Server) -> Iterator[Database]:
    """A database without tables: quicker than a migrated one."""
    name = f"measure_{uuid.uuid4().hex[:16]}"
    postgres.execute(f"CREATE DATABASE {name}")
    try:
        yield Database(name, str(postgres._server.pgdata))
    finally:
        postgres.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["asyncpg", "psycopg"])
async def engine(empty_database: Database, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    """An async engine with a table ``item`` of ten rows (id, n)."""
    made = create_async_engine(empty_database.url(request.param), pool_size=4, max_overflow=0)
    async with made.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"))
        await connection.execute(text("INSERT INTO item SELECT g, 0 FROM generate_series(1, 10) g"))
    yield made
    await made.dispose()
