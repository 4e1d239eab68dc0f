"""Secrets are planted wherever a scheduler meets them; nothing that it writes may show one."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.models import Connection, Variable
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference, VariableInterval
from airflow.utils.session import create_session
from sqlalchemy import text

from tests.support.dags import create_run, layered_dag, notify, scheduled_dag, write_dags
from tests.support.process import Schedulers, schedulers_on
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.postgres import Database

CANARY = "zzcanaryzz"
TOKEN_START = "eyJhbGciOi"
"""How every signed token of Airflow's begins."""


@pytest.fixture
def schedulers(airflow_db: Database, tmp_path: Path) -> Iterator[Schedulers]:
    with schedulers_on(airflow_db, tmp_path) as starter:
        yield starter


def _plant() -> None:
    """Put canaries into the database: values, arguments of a callback, the configuration of a run."""
    Variable.set("minutes", "5", description=CANARY)
    Variable.set("secret", CANARY)
    with create_session() as session:
        session.add(Connection("secret", conn_type="http", host="h", login=CANARY, password=CANARY))
    alert = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=VariableInterval("minutes"),
        callback=AsyncCallback(notify, kwargs={"token": CANARY}),
    )
    due = scheduled_dag("due")
    due.deadline = [alert]
    write_dags(due, layered_dag("dag", [5, 5]))
    create_run("dag", conf={"password": CANARY})


def _secret_environment(database: Database, algorithm: str) -> dict[str, str]:
    urls = {
        name: database.url(driver).replace("postgres:@", f"postgres:{CANARY}@")
        for name, driver in (("SQL_ALCHEMY_CONN", "psycopg2"), ("SQL_ALCHEMY_CONN_ASYNC", "asyncpg"))
    }
    return {
        **{f"AIRFLOW__DATABASE__{name}": url for name, url in urls.items()},
        "AIRFLOW__API_AUTH__JWT_SECRET": f"{CANARY * 7}",
        "AIRFLOW_CONN_SECRET_TOO": f"http://{CANARY}:{CANARY}@host/",
        "AIRFLOW_VAR_SECRET_TOO": CANARY,
        "AIRFLOW__ASYNC_SCHEDULER__ALGORITHM": algorithm,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
    }


def _contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            yield file, gzip.decompress(data) if file.suffix == ".gz" else data


def _assert_clean(*folders: Path) -> None:
    found = [
        f"{file}: …{data[max(0, at - 80) : at + 40]!r}"
        for folder in folders
        for file, data in _contents(folder)
        for secret in (CANARY.encode(), TOKEN_START.encode())
        if (at := data.find(secret)) >= 0
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
def test_full_run_with_trace_dump_and_reports_shows_no_secret(
    schedulers: Schedulers, airflow_db: Database, tmp_path: Path, algorithm: str
) -> None:
    _plant()
    trace = tmp_path / "trace"
    environment = _secret_environment(airflow_db, algorithm)
    process = schedulers.start("--async", "--trace", str(trace), **environment)
    wait_until(lambda: len(schedulers.runs()) >= 11)
    process.signal(signal.SIGUSR2)
    wait_until(lambda: "Thread MainThread" in process.text)
    with create_session() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
                " AND application_name = 'airflow async scheduler'"
            )
        )
    wait_until(lambda: "trying again" in process.text)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.text
    reports = tmp_path / "reports"
    reports.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "airflow", "async-scheduler", "contention", str(trace)),
            *("--html", str(reports / "page.html"), "--json", str(reports / "report.json")),
            *("--perfetto", str(reports / "perfetto.json")),
        ],
        env=schedulers.environment(**environment),
        capture_output=True,
        check=False,
    )
    (reports / "output").write_bytes(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr.decode()
    assert any(trace.iterdir())
    _assert_clean(tmp_path)


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
def test_error_that_ends_it_shows_the_statement_without_its_values(
    schedulers: Schedulers, airflow_db: Database, tmp_path: Path, algorithm: str
) -> None:
    _plant()
    with create_session() as session:
        session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'planted'; END $$"
            )
        )
        for table in ("callback", "deadline"):
            session.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW"
                    " EXECUTE FUNCTION refuse()"
                )
            )
    process = schedulers.start("--async", **_secret_environment(airflow_db, algorithm))
    assert process.wait() == 1, process.text
    assert "planted" in process.text
    assert "SQL parameters hidden" in process.text
    _assert_clean(tmp_path)


def test_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    from tests.support.postgres import Database as Address

    nowhere = Address("none", str(tmp_path / "no-socket-here"))
    with schedulers_on(nowhere, tmp_path) as schedulers:
        process = schedulers.start("--async", **_secret_environment(nowhere, "upstream"))
        assert process.wait() != 0
    _assert_clean(tmp_path)
