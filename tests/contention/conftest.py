"""A server that logs its lock waits, and a database with the controls' table for each test."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from async_scheduler.measure import attribution, registry, stepping
from poc_bench.contention import controls
from poc_bench.contention.servers import SPEED, LoggingPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Site:
    """A test's database, the server's logs, and a folder for traces."""

    url: str
    dsn: str
    server: LoggingPostgres
    traces: Path

    def logs(self) -> list[Path]:
        """Return the server's logs so far."""
        return self.server.logs


@pytest.fixture(scope="session")
def logging_server() -> Iterator[LoggingPostgres]:
    """One server for all tests of this worker."""
    server = LoggingPostgres(SPEED)
    yield server
    server.close()


@pytest.fixture
async def site(logging_server: LoggingPostgres, tmp_path: Path) -> AsyncIterator[Site]:
    """A fresh database with the controls' table."""
    name = f"control_{uuid.uuid4().hex[:12]}"
    logging_server.create(name)
    address = logging_server.address(name)
    await controls.prepare(address.async_url)
    yield Site(address.async_url, address.dsn(), logging_server, tmp_path / "trace")
    logging_server.drop(name)


@pytest.fixture(autouse=True)
def _nothing_stays_on() -> Iterator[None]:
    yield
    assert attribution.sink is None
    assert registry.observer is None
    assert not stepping.enabled
