"""Each test of the facade runs on PostgreSQL and on SQLite, with blocking drivers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_db import airflow_on
from tests.support.sqlite import airflow_on_sqlite

if TYPE_CHECKING:
    from tests.support.postgres import Server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the migrated database is kept that tests copy."""
    return tmp_path_factory.mktemp("sqlite") / "template.db"


@pytest.fixture(params=["postgresql", "sqlite"])
def any_db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Airflow in this process works on a database of the test's own; the value is its kind."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")
        with airflow_on_sqlite(tmp_path / "airflow.db", template):
            yield "sqlite"
        return
    server: Server = request.getfixturevalue("postgres")
    with server.clone() as database, airflow_on(database):
        yield "postgresql"
