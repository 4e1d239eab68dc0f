"""Fixtures of the cluster tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def server_home() -> Iterator[Path]:
    """A directory in which an embedded server can run.

    Not pytest's own: started by root the server runs as another user, and each pytest session that starts
    meanwhile takes away others' right to pass through the directory above all ``tmp_path``.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-") as path:
        yield Path(path)
