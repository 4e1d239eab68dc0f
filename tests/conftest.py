"""Fixtures for every test. Airflow reads its environment when imported, so that is set first of all."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cryptography.fernet import Fernet
from filelock import FileLock
from hypothesis import HealthCheck, settings

# A busy machine is no failure: by itself Hypothesis allows an example 200 ms, and so long to draw it.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

RUN_VARIABLE = "ASYNC_SCHEDULER_TEST_RUN"
IS_FIRST_PROCESS = RUN_VARIABLE not in os.environ  # the others are its xdist workers
if IS_FIRST_PROCESS:
    # Not in pytest's own folder: each run of pytest closes that to other users, the server's among them.
    os.environ[RUN_VARIABLE] = tempfile.mkdtemp(prefix="async-scheduler-tests-")
RUN_DIRECTORY = Path(os.environ[RUN_VARIABLE])
if IS_FIRST_PROCESS:

    def _leave_nothing_behind(process: int) -> None:
        if os.getpid() == process:
            _end_all(list(_started_by_this_run()))
            shutil.rmtree(RUN_DIRECTORY, ignore_errors=True)

    def _started_by_this_run() -> Iterator[psutil.Process]:
        for other in psutil.process_iter():
            with suppress(psutil.Error):
                if other.environ().get(RUN_VARIABLE) == str(RUN_DIRECTORY) and other.pid != os.getpid():
                    yield other

    def _end_all(left: list[psutil.Process]) -> None:
        """End servers that are still there because Ctrl-C ended the workers before they closed them."""
        for ask, patience in ((psutil.Process.terminate, 10), (psutil.Process.kill, 5)):
            for other in left:
                with suppress(psutil.Error):
                    ask(other)
            _, left = psutil.wait_procs(left, patience)

    # Registered first and so run last: the embedded server's wheel takes its lock at the end.
    atexit.register(_leave_nothing_behind, os.getpid())
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="airflow-home-", dir=RUN_DIRECTORY))

(AIRFLOW_HOME / "run").mkdir(mode=0o700)
# Without it the embedded server's wheel takes a lock file in /tmp, which may be another user's.
(AIRFLOW_HOME / "run" / "python_PostgresServer").mkdir(mode=0o700)
os.environ.update(
    XDG_RUNTIME_DIR=str(AIRFLOW_HOME / "run"),
    AIRFLOW_HOME=str(AIRFLOW_HOME),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(AIRFLOW_HOME / "dags"),
    AIRFLOW__CORE__FERNET_KEY=Fernet.generate_key().decode(),
    AIRFLOW__API_AUTH__JWT_SECRET=secrets.token_urlsafe(64),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{AIRFLOW_HOME}/unused.db",
    AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)

from async_scheduler.devcluster.data_directory import DataDirectory  # noqa: E402
from tests.support.postgres import Database, Server  # noqa: E402


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One embedded server for the whole run, shared by all xdist workers."""
    root = RUN_DIRECTORY / "postgres"
    root.mkdir(exist_ok=True, mode=0o700)
    server = Server(root / "data", FileLock(root / "lock"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The command of the browser that looks at our pages; ``make test`` installs it on Debian."""
    found = shutil.which("chromium")
    assert found, "These tests look at a page in a browser: install the package chromium"
    return found


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    """A migrated database of the test's own."""
    with postgres.clone() as clone:
        yield clone


@pytest.fixture
def airflow_db(database: Database) -> Iterator[Database]:
    """Airflow in this process works on a database of the test's own."""
    from tests.support.airflow_db import airflow_on

    with airflow_on(database):
        yield database


@pytest.fixture(scope="session")
def shared_data() -> Iterator[DataDirectory]:
    """One data directory for all tests with real processes: Airflow's schema is made there once.

    They run one after another, in one worker (``xdist_group``), because two cores carry one cluster.
    """
    with tempfile.TemporaryDirectory(prefix="cluster-") as path:
        yield DataDirectory(Path(path))
