"""SQLite by aiosqlite: one writer, one scheduler, and nobody who waits in vain."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conftest import RUN_DIRECTORY
from tests.databases.processes import environment, run
from tests.support.postgres import migrate
from tests.support.process import ROOT, schedulers_on
from tests.support.waiting import wait_until


class File:
    """A database file as an Airflow process is pointed at it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of such a process."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.path}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{self.path}",
        }

    def ask(self, question: str) -> list[Any]:
        """Return the rows of a query."""
        with closing(sqlite3.connect(self.path, timeout=30)) as connection:
            return connection.execute(question).fetchall()


@pytest.fixture(scope="session")
def template() -> Path:
    """A migrated database file, made once for all processes of the tests."""
    folder = RUN_DIRECTORY / "sqlite"
    folder.mkdir(exist_ok=True)
    template = folder / "template.db"
    with FileLock(folder / "lock"):
        if not (folder / "ready").exists():
            migrate(File(template), folder)
            with closing(sqlite3.connect(template)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (folder / "ready").touch()
    return template


@pytest.fixture
def lite(template: Path, tmp_path: Path) -> File:
    """A migrated database of the test's own."""
    path = tmp_path / "airflow.db"
    path.write_bytes(template.read_bytes())
    return File(path)


FAULTS = pytest.mark.faults


@pytest.mark.parametrize(
    ("algorithm", "mode"),
    [
        ("redesigned", "concurrent"),
        pytest.param("upstream", "concurrent", marks=FAULTS),
        pytest.param("redesigned", "sequential", marks=FAULTS),
        pytest.param("upstream", "sequential", marks=FAULTS),
        pytest.param("redesigned", "shared_session", marks=FAULTS),
    ],
)
def test_the_workload_ends_as_under_the_stock_scheduler(
    expected: list[list[Any]], lite: File, tmp_path: Path, algorithm: str, mode: str
) -> None:
    ended, log = run(lite, tmp_path, "workload", algorithm, mode)
    assert ended == expected
    assert "is locked" not in log


def test_every_statement_runs(lite: File, tmp_path: Path) -> None:
    outcome, _ = run(lite, tmp_path, "every_statement")
    assert outcome
    assert {name: error for name, error in outcome.items() if error} == {}


@pytest.mark.faults
def test_a_second_scheduler_is_refused_and_a_dead_ones_place_is_taken(lite: File, tmp_path: Path) -> None:
    quick = {"AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1"}
    with schedulers_on(lite, tmp_path) as schedulers:
        first = schedulers.start("--async", **quick)
        wait_until(lambda: "Adopting or resetting orphaned tasks" in first.text)
        second = schedulers.start("--async", **quick)
        assert second.wait() == 1
        refusal = (
            "airflow scheduler --async: Only one scheduler may run on this database, because Airflow takes "
            "no row locks on it (SQLite); scheduler job 1 on host "
        )
        assert refusal in second.text
        assert first.poll() is None
        first.kill()
        threshold = {"AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "3"}
        third = schedulers.start("--async", "--num-runs", "1", **quick, **threshold)
        assert third.wait() == 0, third.text
    assert lite.ask("SELECT state FROM job ORDER BY id") == [("failed",), ("failed",), ("success",)]


@pytest.mark.faults
def test_real_tasks_under_local_executor(tmp_path: Path) -> None:
    """Task processes that report to a real API server, which writes beside the scheduler."""
    from poc_bench import record
    from poc_bench.cli import main

    size = "layers:dags=2,runs=2,tasks=10"
    options = ("--arm", "redesigned,naive", "--db", "sqlite", "--executor", "local", "--out", str(tmp_path))
    assert main(["run", "--workload", size, *options]) == 0
    cells = [cell for cell in record.read(tmp_path).cells if cell.arm != "floor"]
    assert [(cell.failure, cell.violations) for cell in cells] == [(None, []), (None, [])]


@pytest.mark.faults
@pytest.mark.parametrize(("algorithm", "runs"), [("redesigned", 8), ("upstream", 3)])
def test_nobody_waits_in_vain_for_the_writer(lite: File, tmp_path: Path, algorithm: str, runs: int) -> None:
    """As under LocalExecutor: many tasks write through the API server while the scheduler works."""
    variables = environment(lite, tmp_path)
    prepare = f"from tests.databases.workload import write_workload; write_workload(runs={runs})"
    subprocess.run([sys.executable, "-c", prepare], env=variables, cwd=ROOT, check=True)
    writing = subprocess.Popen(
        [sys.executable, "-m", "tests.databases.writers"],
        env=variables,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Closing the block closes their input, which ends them.
    with schedulers_on(lite, tmp_path) as schedulers, writing as writers:
        scheduler = schedulers.start(
            "--async", "--num-runs", "8", "--only-idle", AIRFLOW__ASYNC_SCHEDULER__ALGORITHM=algorithm
        )
        assert scheduler.wait() == 0, scheduler.text
        output, _ = writers.communicate("")
    outcome = json.loads(output.splitlines()[-1])
    assert outcome["failed"] == 0, outcome
    assert outcome["written"] > runs
    assert "is locked" not in scheduler.text
    assert {state for (state,) in lite.ask("SELECT state FROM dag_run")} <= {"success", "failed"}
