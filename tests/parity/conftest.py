"""One database for each module of stories; each story begins with it emptied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_db import airflow_on

if TYPE_CHECKING:
    from tests.support.postgres import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the stories of a module in one process of a parallel run, so that its database is made once."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(f"parity-{item.path.stem}"))


@pytest.fixture(scope="module")
def parity_db(postgres: Server) -> Iterator[None]:
    """Airflow in this process works on a database of the module's own."""
    with postgres.clone() as database, airflow_on(database):
        yield
