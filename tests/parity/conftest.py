"""One database for each module of stories; each story begins with it emptied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_db import airflow_on

if TYPE_CHECKING:
    from tests.support.postgres import Server


@pytest.fixture(scope="module")
def parity_db(postgres: Server) -> Iterator[None]:
    """Airflow in this process works on a database of the module's own."""
    with postgres.clone() as database, airflow_on(database):
        yield
