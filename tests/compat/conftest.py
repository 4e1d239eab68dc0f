"""Each test of the facade runs on PostgreSQL and on SQLite, with blocking drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_db import airflow_on
from tests.support.sqlite import airflow_on_sqlite

if TYPE_CHECKING:
    from tests.support.postgres import Server

FreshDatabase = Callable[[], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the database is kept that tests on SQLite copy."""
    return tmp_path_factory.mktemp("sqlite") / "template.db"


@pytest.fixture(params=["postgresql", "sqlite"])
def fresh_db(request: pytest.FixtureRequest, tmp_path: Path) -> FreshDatabase:
    """Make blocks in which Airflow works on an empty database of their own; they yield its kind."""
    numbers = count()

    @contextmanager
    def on_postgresql() -> Iterator[str]:
        server: Server = request.getfixturevalue("postgres")
        with server.clone() as database, airflow_on(database):
            yield "postgresql"

    @contextmanager
    def on_sqlite() -> Iterator[str]:
        template = request.getfixturevalue("sqlite_template")
        with airflow_on_sqlite(tmp_path / f"{next(numbers)}.db", template):
            yield "sqlite"

    return on_postgresql if request.param == "postgresql" else on_sqlite


@pytest.fixture
def any_db(fresh_db: FreshDatabase) -> Iterator[str]:
    """Airflow in this process works on a database of the test's own; the value is its kind."""
    with fresh_db() as kind:
        yield kind
