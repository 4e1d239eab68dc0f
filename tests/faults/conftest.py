"""A server that may be hurt, and fields on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import RUN_DIRECTORY
from tests.faults.field import Fields
from tests.faults.report import add
from tests.faults.server import FaultServer

if TYPE_CHECKING:
    from tests.faults.running import Outcome

RECORD = "FAULTS_RECORD"
"""The variable that names a folder for the outcomes; what it holds is kept, and counted."""


@pytest.fixture(scope="session")
def record() -> Callable[[Outcome, str], None]:
    """Called with an outcome and its workload: adds it to the record, if one is asked for."""
    folder = Path(os.environ[RECORD]) if RECORD in os.environ else None

    def recorded(outcome: Outcome, workload: str) -> None:
        if folder is not None:
            add(outcome, folder, workload)

    return recorded


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fields]:
    """Fields on a PostgreSQL of their own, which may be restarted."""
    import tempfile

    server = FaultServer()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=RUN_DIRECTORY))  # short enough for sockets
    keys = {name: os.environ[name] for name in ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET")}
    yield Fields(server, folder, keys)
    server.close()
