"""What the tests of databases and drivers share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.airflow_db import airflow_on

if TYPE_CHECKING:
    from tests.support.postgres import Server

_expected: list[list[list[Any]]] = []


@pytest.fixture
def expected(postgres: Server) -> list[list[Any]]:
    """How the stock scheduler ends the workload, found once for each process of the tests."""
    if not _expected:
        from tests.databases.workload import stock_end_states

        with postgres.clone() as clone, airflow_on(clone):
            _expected.append(stock_end_states())
    return _expected[0]
