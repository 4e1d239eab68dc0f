"""A server that may be hurt, and fields on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RUN_DIRECTORY
from tests.faults.field import Fields
from tests.faults.server import FaultServer


@pytest.fixture(scope="session")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fields]:
    """Fields on a PostgreSQL of their own, which may be restarted."""
    import tempfile

    server = FaultServer()
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=RUN_DIRECTORY))  # short enough for sockets
    keys = {name: os.environ[name] for name in ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET")}
    yield Fields(server, folder, keys)
    server.close()
