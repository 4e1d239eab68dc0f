"""``airflow scheduler --async`` as users run it: exit codes, signals, beside the stock scheduler."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
from airflow.jobs.job import Job
from airflow.models.dagrun import DagRun
from airflow.models.deadline_alert import DeadlineAlert as DeadlineAlertModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.variable import Variable
from airflow.sdk.definitions.deadline import VariableInterval
from airflow.utils.session import create_session
from sqlalchemy import func, select, text

from tests.support.dags import create_run, dag_with_deadline, layered_dag, write_dags
from tests.support.ports import free_port
from tests.support.postgres import Database
from tests.support.process import Schedulers, schedulers_on
from tests.support.waiting import wait_until


@pytest.fixture
def schedulers(airflow_db: Database, tmp_path: Path) -> Iterator[Schedulers]:
    with schedulers_on(airflow_db, tmp_path) as starter:
        yield starter


def _states(model: type[DagRun] | type[TaskInstance]) -> dict[str, int]:
    with create_session() as session:
        rows = session.execute(select(model.state, func.count()).group_by(model.state))
        return {str(state): count for state, count in rows}


def _running(schedulers: int) -> Callable[[], bool]:
    def check() -> bool:
        with create_session() as session:
            running = session.scalar(select(func.count()).where(Job.state == "running"))
            return bool(running == schedulers)

    return check


def test_wrong_setting_is_named_and_nothing_touches_the_database(tmp_path: Path) -> None:
    nowhere = Database("none", str(tmp_path / "no-socket-here"))
    with schedulers_on(nowhere, tmp_path) as schedulers:
        process = schedulers.start("--async", AIRFLOW__ASYNC_SCHEDULER__SHUTDOWN_GRACE="soon")
        assert process.wait() == 2
    assert process.text.splitlines()[-1] == (
        "airflow scheduler --async: error: [async_scheduler] shutdown_grace = 'soon' is not allowed; "
        "allowed: a number from 0 to 3600 (seconds)"
    )


def test_a_trace_directory_that_cannot_be_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = Database("none", str(tmp_path / "no-socket-here"))
    with schedulers_on(nowhere, tmp_path) as schedulers:
        process = schedulers.start("--async", "--trace", str(tmp_path / "file"))
        assert process.wait() == 2
    assert process.text.splitlines()[-1] == (
        f"airflow scheduler --async: error: [async_scheduler] trace_directory = '{tmp_path / 'file'}' is not "
        "allowed; allowed: a directory that can be made, or nothing (File exists)"
    )


def test_num_runs_and_only_idle_end_it_when_the_work_is_done(schedulers: Schedulers) -> None:
    write_dags(layered_dag("dag", [3, 3]))
    create_run("dag")
    process = schedulers.start("--async", "--num-runs", "3", "--only-idle")
    assert process.wait() == 0, process.text
    assert _states(DagRun) == {"success": 1}
    assert len(schedulers.runs()) == 6


def test_missing_migrations_are_named_and_it_does_not_begin(schedulers: Schedulers) -> None:
    with create_session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'of long ago'"))
    process = schedulers.start("--async", "--num-runs", "1")
    assert process.wait() == 1
    assert "Database migration required" in process.text
    with create_session() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_nothing_is_imported_that_only_other_processes_need(schedulers: Schedulers) -> None:
    """Each of these is megabytes: those of the log server, and those for reading migrations."""
    process = schedulers.start(
        "--async",
        "--num-runs",
        "1",
        PYTHONPROFILEIMPORTTIME="1",
        AIRFLOW__DATABASE__CHECK_MIGRATIONS="False",  # else another process imports them
    )
    assert process.wait() == 0
    lines = (line for line in process.text.splitlines() if line.startswith("import time:"))
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "async_scheduler.runner" in imported
    assert not imported & {"alembic", "fastapi", "uvicorn"}


def test_only_idle_needs_num_runs(schedulers: Schedulers) -> None:
    process = schedulers.start("--async", "--only-idle")
    assert process.wait() == 1
    assert "The --only-idle flag requires --num-runs" in process.text


def test_sigterm_ends_it_and_a_restart_goes_on(schedulers: Schedulers) -> None:
    write_dags(layered_dag("dag", [10] * 20, max_active_runs=10))
    for number in range(5):
        create_run("dag", number)
    # Two tasks at a time: it is far from the end whenever the signal arrives.
    first = schedulers.start("--async", AIRFLOW__CORE__PARALLELISM="2")
    wait_until(lambda: len(schedulers.runs()) >= 20)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0, first.text
    assert "Exiting gracefully upon receiving signal SIGTERM" in first.text
    assert _states(DagRun) != {"success": 5}, "the test must stop it in the middle of the work"
    second = schedulers.start("--async", "--num-runs", "5", "--only-idle")
    assert second.wait() == 0, second.text
    assert _states(DagRun) == {"success": 5}
    assert max(Counter(task for _, task in schedulers.runs()).values()) == 1
    with create_session() as session:
        assert set(session.scalars(select(Job.state))) == {"success"}


def test_sigusr2_prints_tasks_and_threads(schedulers: Schedulers) -> None:
    process = schedulers.start("--async")
    wait_until(_running(1))
    wait_until(lambda: "Adopting or resetting orphaned tasks" in process.text)
    process.signal(signal.SIGUSR2)
    wait_until(lambda: "Thread MainThread" in process.text)
    for routine in ("schedule", "enqueue", "heartbeat", "executor:"):
        assert f"Task {routine}" in process.text
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
def test_error_that_no_retry_mends_ends_it_with_one_message(schedulers: Schedulers, algorithm: str) -> None:
    with create_session() as session:
        session.execute(text("DROP TABLE deadline CASCADE"))
    process = schedulers.start("--async", AIRFLOW__ASYNC_SCHEDULER__ALGORITHM=algorithm)
    assert process.wait() == 1
    # Whichever asks for that table first.
    assert (
        len(re.findall(r"airflow scheduler --async: Routine '(?:probe|deadlines)' failed", process.text)) == 1
    )


def test_deadline_given_by_a_variable_does_not_end_it(schedulers: Schedulers) -> None:
    Variable.set("minutes", "5")
    write_dags(dag_with_deadline("dag", VariableInterval("minutes")))
    process = schedulers.start("--async", "--num-runs", "3", "--only-idle")
    assert process.wait() == 0, process.text
    assert _states(DagRun) == {"success": 1}
    with create_session() as session:
        # One was made, and dropped again when the run ended in time.
        assert session.scalar(select(func.count()).select_from(DeadlineAlertModel)) == 1


def test_health_checks_see_a_healthy_scheduler(schedulers: Schedulers) -> None:
    port = free_port()
    process = schedulers.start(
        "--async",
        AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK="True",
        AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST="127.0.0.1",
        AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT=str(port),
    )

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(healthy)
    check = [sys.executable, "-m", "airflow", "jobs", "check", "--job-type", "SchedulerJob"]
    done = subprocess.run(check, env=schedulers.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Found one alive job" in done.stdout
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


def _all_succeeded(runs: int) -> bool:
    return _states(DagRun) == {"success": runs}


LOCAL = "airflow.executors.local_executor.LocalExecutor"


def _processes_of(session_leader: int) -> list[int]:
    """Return the living processes of the session that the scheduler led."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session_leader and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def test_failure_at_the_start_leaves_no_worker_behind(schedulers: Schedulers) -> None:
    process = schedulers.start(
        "--async", "--trace", "/proc/self", AIRFLOW__CORE__EXECUTOR=LOCAL, AIRFLOW__CORE__PARALLELISM="2"
    )
    assert process.wait() == 1, process.text
    assert "No trace can be written to /proc/self" in process.text
    wait_until(lambda: not _processes_of(process.pid))


def test_second_signal_ends_it_at_once_with_its_workers(schedulers: Schedulers) -> None:
    process = schedulers.start("--async", AIRFLOW__CORE__EXECUTOR=LOCAL, AIRFLOW__CORE__PARALLELISM="2")
    wait_until(lambda: "Adopting or resetting orphaned tasks" in process.text)
    process.signal(signal.SIGSTOP)  # so that both signals arrive before it has ended
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGCONT)
    assert process.wait() == 1
    assert "ending at once" in process.text
    wait_until(lambda: not _processes_of(process.pid))


def test_daemon_with_pid_and_log_file(schedulers: Schedulers, tmp_path: Path) -> None:
    pid_file, log_file = tmp_path / "scheduler.pid", tmp_path / "daemon.log"
    starter = schedulers.start(
        "--async", "--daemon", "--pid", str(pid_file), "--log-file", str(log_file), "--num-runs", "2"
    )
    assert starter.wait() == 0
    wait_until(lambda: "Exited execute loop" in (log_file.read_text() if log_file.exists() else ""))
    wait_until(lambda: not pid_file.exists())


def test_beside_the_stock_scheduler_every_task_runs_once(schedulers: Schedulers) -> None:
    write_dags(*(layered_dag(f"dag_{n}", [5] * 8, max_active_runs=10) for n in range(4)), paused=True)
    for dag in range(4):
        for run in range(4):
            create_run(f"dag_{dag}", run)
    ours, stock = schedulers.start("--async"), schedulers.start()
    wait_until(lambda: all("Adopting or resetting orphaned tasks" in one.text for one in (ours, stock)))
    with create_session() as session:
        session.execute(text("UPDATE dag SET is_paused = false"))
    wait_until(lambda: _states(DagRun) == {"success": 16})
    created = 16
    while {pid for pid, _ in schedulers.runs()} != {str(ours.pid), str(stock.pid)}:
        # One may have been too slow for what there was: there is more until both have taken part.
        assert created < 400, "one of them does nothing"
        for dag in range(4):
            create_run(f"dag_{dag}", created)
        created += 4
        wait_until(partial(_all_succeeded, created))
    for process in (ours, stock):
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, process.text
    runs = schedulers.runs()
    assert len(runs) == len({task for _, task in runs}) == created * 40
    assert _states(TaskInstance) == {"success": created * 40}
