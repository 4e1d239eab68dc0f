"""The processes under honcho: their logs, their order of ending, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from async_scheduler.devcluster.problem import ClusterProblem
from async_scheduler.devcluster.processes import Processes, running_processes
from tests.cluster.leftovers import still_running
from tests.support.process import PATIENCE

ENDS_WHEN_TOLD = "trap 'echo told; exit 0' TERM; echo up $$; while :; do read -t 1 line || :; done"
DEAF = "trap '' TERM; echo up $$; exec sleep 1000"
WAIT = 0.05


def procfile(directory: Path, **commands: str) -> Path:
    lines = []
    for name, script in commands.items():
        (directory / f"{name}.sh").write_text(script)
        lines.append(f"{name}: exec bash {directory}/{name}.sh\n")
    (directory / "Procfile").write_text("".join(lines))
    return directory / "Procfile"


def wait_for(processes: Processes, file: Path, text: str) -> str:
    """Return what *file* holds, once it holds *text*."""
    while not file.exists() or text not in file.read_text():
        processes.wait(WAIT)
    return file.read_text()


def process_of(log: str) -> psutil.Process:
    return psutil.Process(int(log.split()[1]))


def test_each_process_writes_its_own_log_and_the_scheduler_ends_first(tmp_path: Path) -> None:
    file = procfile(tmp_path, web=ENDS_WHEN_TOLD, scheduler=ENDS_WHEN_TOLD)
    with running_processes(file, os.environ, tmp_path, grace=PATIENCE) as processes:
        started = [
            process_of(wait_for(processes, tmp_path / f"{name}.log", "up")) for name in ("web", "scheduler")
        ]
    assert still_running(started) == []
    assert "told" in (tmp_path / "web.log").read_text()
    log = (tmp_path / "cluster.log").read_text()
    assert log.index("scheduler stopped (rc=0)") < log.index("sending SIGTERM to web")


def test_processes_can_be_left_out(tmp_path: Path) -> None:
    file = procfile(tmp_path, web=ENDS_WHEN_TOLD, scheduler=ENDS_WHEN_TOLD)
    with running_processes(file, os.environ, tmp_path, without={"scheduler"}) as processes:
        wait_for(processes, tmp_path / "web.log", "up")
    assert not (tmp_path / "scheduler.log").exists()
    assert "scheduler" not in (tmp_path / "cluster.log").read_text()


def test_the_one_that_ended_is_named_with_its_last_lines(tmp_path: Path) -> None:
    file = procfile(tmp_path, web=ENDS_WHEN_TOLD, scheduler="echo no database; exit 7")
    with (
        running_processes(file, os.environ, tmp_path) as processes,
        pytest.raises(ClusterProblem, match="scheduler ended with exit code 7") as caught,
    ):
        processes.wait(PATIENCE)
    assert caught.value.hint.endswith("no database")


def test_one_that_will_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    # The straggler is in a process group of its own, as Airflow's tasks are.
    script = f"set -m; ( {DEAF} ) >{tmp_path}/straggler 2>&1 & {DEAF}"
    file = procfile(tmp_path, scheduler=script)
    with running_processes(file, os.environ, tmp_path, grace=0.2) as processes:
        wait_for(processes, tmp_path / "straggler", "up")
        leader = process_of(wait_for(processes, tmp_path / "scheduler.log", "up"))
        left = [leader, *leader.children(recursive=True)]
    assert len(left) > 1
    assert still_running(left) == []


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    file = procfile(tmp_path, scheduler=ENDS_WHEN_TOLD)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(file), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    started = process_of(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    assert still_running([started]) == []


OWNER = """
import os, sys, pathlib
from async_scheduler.devcluster.processes import running_processes
from tests.cluster.test_processes import wait_for
file, logs = map(pathlib.Path, sys.argv[1:])
with running_processes(file, os.environ, logs) as processes:
    print(wait_for(processes, logs / "scheduler.log", "up"), flush=True)
    processes.wait(600)
"""
