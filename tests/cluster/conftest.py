"""Fixtures of the cluster tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from async_scheduler.devcluster.data_directory import DataDirectory


@pytest.fixture
def server_home() -> Iterator[Path]:
    """A directory in which an embedded server can run.

    Not pytest's own: started by root the server runs as another user, and each pytest session that starts
    meanwhile takes away others' right to pass through the directory above all ``tmp_path``.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def shared_data() -> Iterator[DataDirectory]:
    """One data directory for all tests with real processes: Airflow's schema is made there once.

    They run one after another, in one worker (``xdist_group``), because two cores carry one cluster.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-") as path:
        yield DataDirectory(Path(path))
