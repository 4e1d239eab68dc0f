"""What every Airflow command does with the database before it begins, without keeping what that takes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing import get_context

from airflow import settings as airflow_settings
from airflow.configuration import conf
from airflow.utils.db import check_and_run_migrations, synchronize_log_template


def check_database() -> None:
    """Do what ``action_cli(check_db=True)`` does.

    To see whether one is missing Airflow reads all of its migrations, and Alembic: seven MiB that would stay
    with the scheduler. Where no user is asked what to do about it, another process reads them.

    :raises SystemExit: when migrations are missing.
    """
    if conf.getboolean("database", "check_migrations"):
        if sys.stdout.isatty():
            check_and_run_migrations()
        else:
            _run_in_child(check_and_run_migrations)
    synchronize_log_template()


def _run_in_child(function: Callable[[], object]) -> None:
    """Run *function* in a fork of this process; neither executors nor an event loop exist yet.

    :raises SystemExit: with the child's exit code unless it is 0.
    """
    airflow_settings.get_engine().dispose()  # no connection is in two processes
    child = get_context("fork").Process(target=function)
    child.start()
    child.join()
    if child.exitcode:
        raise SystemExit(child.exitcode)
