"""A scheduler that dies, Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from poc_bench import record
from poc_bench.arms import ARMS, SYNC, Arm
from poc_bench.bench import Bench
from poc_bench.cli import INTERRUPTED, main
from poc_bench.database.address import Address
from poc_bench.database.postgres import Postgres
from poc_bench.environment import FIXED, AirflowHome
from poc_bench.errors import CellFailure
from poc_bench.processes import Child
from poc_bench.workloads import sized
from tests.bench.crashing import EXIT_CODE
from tests.cluster.leftovers import still_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import Database, Server

SMALL = ["run", "--workload", "layers:dags=1,runs=1,tasks=10", "--timeout", "1800"]
REPEATS = 9
COMMAND = [sys.executable, "-m", "poc_bench", *SMALL, "--arm", "sync"]


@pytest.fixture
def crashing_arm(monkeypatch: pytest.MonkeyPatch) -> str:
    """An arm whose scheduler dies mid-cell."""
    executor = {"AIRFLOW__CORE__EXECUTOR": "tests.bench.crashing.CrashingExecutor"}
    monkeypatch.setitem(ARMS, "crash", Arm("crash", "dies", SYNC, executor))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return "crash"


def databases(postgres: Server, prefix: str) -> set[str]:
    listed = postgres.execute("SELECT datname FROM pg_database")
    return {line.strip() for line in listed.splitlines() if line.strip().startswith(prefix)}


def test_a_crash_gives_a_failed_cell_with_its_log(
    crashing_arm: str,
    postgres: Server,
    database: Database,
    temporary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("poc_bench.bench.DATABASES", "bench_crash_")
    url = database.url("psycopg2")
    code = main([*SMALL, "--arm", f"{crashing_arm},sync", "--db", url, "--out", str(out)])

    crashed, well = (cell for cell in record.read(out).cells if cell.arm != "floor")
    assert code == 1
    assert crashed.failure is not None
    assert crashed.failure.startswith(f"scheduler 0 ended with exit code {EXIT_CODE}")
    assert well.correct
    assert [log.name for log in (out / "logs").glob("*crash*/scheduler-0.log")] == ["scheduler-0.log"]
    assert list(temporary.iterdir()) == []
    assert databases(postgres, "bench_crash_") == set()


def test_a_scheduler_without_counts_gives_a_failed_cell(
    database: Database, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = {"AIRFLOW__CORE__EXECUTOR": "tests.bench.crashing.CrashingAtTheEnd"}
    monkeypatch.setitem(ARMS, "crash", Arm("crash", "dies at its end", SYNC, executor))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    out = tmp_path / "out"
    assert main([*SMALL, "--arm", "crash", "--db", database.url("psycopg2"), "--out", str(out)]) == 1

    (cell,) = (cell for cell in record.read(out).cells if cell.arm != "floor")
    assert cell.failure is not None
    assert cell.failure.startswith(
        f"scheduler 0 left no counts: asked to end, it did so with exit code {EXIT_CODE}"
    )


def test_two_runs_share_a_server(
    postgres: Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poc_bench.bench.DATABASES", "bench_shared_")
    monkeypatch.setattr(AirflowHome, "run", lambda *_: None)
    server = Postgres(Address("postgresql", database.name, "postgres", host=database.socket_dir))
    workload = sized("layers:dags=1,runs=1,tasks=10")
    with Bench(server, tmp_path, 60) as one, Bench(server, tmp_path, 60) as other:
        made = {one.template(workload, 0), other.template(workload, 0)}
        assert len(made) == 2
        assert made < databases(postgres, "bench_shared_")
    assert databases(postgres, "bench_shared_") == set()


def test_a_failed_migration_leaves_no_database(
    postgres: Server, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise CellFailure("no migration")

    monkeypatch.setattr("poc_bench.bench.DATABASES", "bench_migration_")
    monkeypatch.setattr(AirflowHome, "run", fails)
    server = Postgres(Address("postgresql", database.name, "postgres", host=database.socket_dir))
    with Bench(server, tmp_path, 60) as bench, pytest.raises(CellFailure):
        bench.template(sized("layers:dags=1,runs=1,tasks=10"), 0)
    assert databases(postgres, "bench_migration_") == set()


DROPS_THE_FIRST = """
import signal, sys, time, weakref
class Thing: pass
def leave(*_): sys.exit(0)
def leave_in_a_finaliser(*_):
    signal.signal(signal.SIGTERM, leave)
    thing = Thing()
    reference = weakref.ref(thing, leave)
    del thing
signal.signal(signal.SIGTERM, leave_in_a_finaliser)
print("ready", flush=True)
time.sleep(600)
"""
IGNORES_ALL = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR2, lambda *_: print("at its wits' end", flush=True))
def deep_in_thought(): time.sleep(600)
print("ready", flush=True)
deep_in_thought()
"""


def child_running(code: str, folder: Path) -> Child:
    child = Child("child", [sys.executable, "-c", code], {**os.environ, **FIXED}, folder)
    while child.last_line() != "ready":
        assert child.exit_code is None, child.last_line()
        time.sleep(0.05)
    return child


def test_an_exit_raised_where_python_drops_it_is_asked_for_again(tmp_path: Path) -> None:
    child = child_running(DROPS_THE_FIRST, tmp_path)
    assert child.end(grace=20) == 0
    assert "SystemExit" in child.log.read_text()


def test_who_does_not_end_is_aborted_and_tells_where_it_was(tmp_path: Path) -> None:
    child = child_running(IGNORES_ALL, tmp_path)
    assert child.end(grace=0.2, dump=signal.SIGUSR2) == -signal.SIGABRT
    log = child.log.read_text()
    assert "deep_in_thought" in log
    assert "at its wits' end" in log


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files that the server's own user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="bench-tests-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_is_done_and_leaves_nothing(
    interruption: signal.Signals, temporary: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [*COMMAND, "--repeat", str(REPEATS), "--out", str(out)],
        env={**os.environ, "TMPDIR": str(temporary), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
        # Tests may run where a shell has told its background jobs to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        told = {next(cell for line in process.stdout if (cell := _cell_told_of(line)))}
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(interruption)
        # A set: rich prints a line again when it is interrupted between writing and forgetting it.
        told |= {cell for line in process.stdout if (cell := _cell_told_of(line))}

    assert process.returncode == INTERRUPTED
    found = record.read(out)
    assert found.interrupted
    kept = [cell.correct for cell in found.cells if cell.arm == "sync"]
    assert kept in ([True] * len(told), [True] * (len(told) + 1)), (
        "the last one may have been kept and not told of yet"
    )
    assert len(kept) < REPEATS
    assert list(temporary.iterdir()) == []
    assert still_running(family) == []


def _cell_told_of(line: str) -> str | None:
    """Return the number of the sync arm's cell that *line* tells of."""
    found = re.search(r"#(\d+) layers +sync", line)
    return found and found[1]
