"""A SQLite database with Airflow's schema, for tests of what has to work there too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from airflow import settings


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A database of its own for one test."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point an Airflow process at this database."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.path}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{self.path}",
        }


@contextmanager
def airflow_on_sqlite(path: Path, template: Path) -> Iterator[SqliteFile]:
    """Configure Airflow's sessions for a copy of *template* at *path* while the block runs.

    The template is made when it does not exist: from the models, which is quicker than the migrations.
    """
    if not template.exists():
        made = template.with_suffix(".making")
        made.unlink(missing_ok=True)
        with _configured(SqliteFile(made)):
            _create_tables()
        made.rename(template)
    shutil.copyfile(template, path)
    with _configured(SqliteFile(path)):
        yield SqliteFile(path)


@contextmanager
def _configured(database: SqliteFile) -> Iterator[None]:
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


def _create_tables() -> None:
    from airflow.models.base import Base
    from airflow.models.tasklog import LogTemplate
    from airflow.utils.db import add_default_pool_if_not_exists, create_default_connections  # noqa: F401
    from airflow.utils.session import create_session

    assert settings.engine is not None
    Base.metadata.create_all(settings.engine)
    add_default_pool_if_not_exists()
    with create_session() as session:
        session.add(LogTemplate(filename="{{ ti.task_id }}.log", elasticsearch_id="{{ ti.task_id }}"))
