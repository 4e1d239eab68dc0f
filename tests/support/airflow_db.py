"""Points this process's Airflow at a test database and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from unittest.mock import patch

from airflow import settings


class Reachable(Protocol):
    """A database, and how an Airflow process is pointed at it."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of such a process."""


@contextmanager
def airflow_on(database: Reachable) -> Iterator[None]:
    """Configure Airflow's sessions for *database* while the block runs."""
    with patch.dict(os.environ, database.environment):
        settings.dispose_orm(do_log=False)
        settings.configure_vars()
        settings.configure_orm()
        try:
            yield
        finally:
            settings.dispose_orm(do_log=False)
    settings.configure_vars()
    settings.configure_orm()
