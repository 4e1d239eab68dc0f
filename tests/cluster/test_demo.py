"""``make demo`` as a user runs it: real processes, a real database, the DAGs of ``config/dev/dags``."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from async_scheduler.devcluster.cluster import CHECKOUT
from async_scheduler.devcluster.expectations import read_expectations
from tests.cluster.leftovers import still_running
from tests.support.ports import free_port

if TYPE_CHECKING:
    from async_scheduler.devcluster.data_directory import DataDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.xdist_group("cluster")]

TRIGGERED = "DAGs parsed, switched on and triggered"


@contextmanager
def demo(data: DataDirectory, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "async_scheduler.devcluster", "demo", "--data-dir", str(data.root)]
    patient = ["--timeout", "1200", "--port", str(free_port())]
    with subprocess.Popen(
        [*command, *patient, *arguments],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests may run where a shell has told its background jobs to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        yield process


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the lines that *process* prints up to the one that holds *text*."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError("".join(lines))


def processes_of(process: subprocess.Popen[str], data: DataDirectory) -> list[psutil.Process]:
    server = int((data.postgres / "postmaster.pid").read_text().splitlines()[0])
    return [*psutil.Process(process.pid).children(recursive=True), psutil.Process(server)]


def listening_on(processes: list[psutil.Process]) -> set[str]:
    """Return the addresses on which *processes* take TCP connections."""
    addresses = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("inet")
            addresses |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return addresses


def test_every_dag_ends_as_declared_and_nothing_is_left(shared_data: DataDirectory) -> None:
    with demo(shared_data) as process:
        read_until(process, TRIGGERED)
        started = processes_of(process, shared_data)
        assert listening_on(started) == {"127.0.0.1"}, "the API server alone, for nobody else"
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "Every run ended as expected." in output
    for expectation in read_expectations(CHECKOUT / "config" / "dev" / "expected_runs.toml"):
        assert re.search(rf"{expectation.dag_id} .*✓", output)
    assert still_running(started) == []
    _assert_logs_are_complete(shared_data)
    _assert_no_secret_in_logs(shared_data)


def _assert_logs_are_complete(data: DataDirectory) -> None:
    logs = {path.name for path in data.logs.glob("*.log")}
    assert logs >= {f"{name}.log" for name in ("api-server", "dag-processor", "scheduler", "triggerer")}
    # Only the triggerer writes such a file: the sensor really was deferred.
    assert list(data.logs.glob("tasks/dag_id=deferrable_sensor/*/*/attempt=1.log.trigger.*"))
    assert list(data.logs.glob("tasks/dag_id=retries/*/task_id=fails_at_every_try/attempt=2.log"))


def _assert_no_secret_in_logs(data: DataDirectory) -> None:
    secrets = json.loads((data.root / "keys.json").read_text()).values()
    files = [path for path in data.logs.rglob("*") if path.is_file()]
    assert not [
        (path, secret) for path in files for secret in secrets if secret.encode() in path.read_bytes()
    ]


def test_an_interrupt_stops_everything(shared_data: DataDirectory) -> None:
    with demo(shared_data, "--scheduler", "sync") as process:
        read_until(process, TRIGGERED)
        started = processes_of(process, shared_data)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130, output
    assert output.endswith("Interrupted.\n")
    assert still_running(started) == []
