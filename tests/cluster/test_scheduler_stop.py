"""SIGTERM while tasks run: they finish, and a restarted scheduler closes their run; nothing is done twice."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from rich.console import Console

from async_scheduler.devcluster.cluster import CHECKOUT, Cluster, ClusterOptions, running_cluster
from async_scheduler.devcluster.screen import Screen
from tests.support.ports import free_port
from tests.support.process import PATIENCE

if TYPE_CHECKING:
    from async_scheduler.devcluster.data_directory import DataDirectory

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.xdist_group("cluster")]

MAPPED = 3
WAIT = 0.2


@pytest.fixture
def cluster(shared_data: DataDirectory, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without a scheduler, on the DAGs of these tests."""
    config = tmp_path / "config"
    shutil.copytree(CHECKOUT / "config" / "dev", config, ignore=shutil.ignore_patterns("dags"))
    shutil.copytree(Path(__file__).parent / "dags", config / "dags")
    options = ClusterOptions(
        shared_data,
        database="stop",
        port=free_port(),
        fresh=True,
        config=config,
        without=frozenset({"scheduler", "triggerer"}),
    )
    with running_cluster(options, Screen(Console(file=io.StringIO()))) as cluster:
        yield cluster


@contextmanager
def async_scheduler(cluster: Cluster, gate: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["airflow", "scheduler", "--async", "--skip-serve-logs"],
            env={**cluster.environment, "GATE_DIRECTORY": str(gate)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as scheduler,
    ):
        try:
            yield scheduler
        finally:
            if scheduler.poll() is None:
                for process in [*psutil.Process(scheduler.pid).children(recursive=True), scheduler]:
                    process.kill()


def until(cluster: Cluster, condition: Callable[[], bool]) -> None:
    while not condition():
        cluster.processes.wait(WAIT)


def states(cluster: Cluster) -> Counter[tuple[str, str]]:
    return Counter((task.task_id, task.state) for task in cluster.api.task_instances())


def test_nothing_is_lost_when_the_scheduler_is_stopped(cluster: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    with async_scheduler(cluster, gate, tmp_path / "first.log") as scheduler:
        until(cluster, lambda: "gated" in cluster.api.dag_ids())
        cluster.api.unpause("gated")
        cluster.api.trigger("gated")
        until(cluster, lambda: len(list(gate.iterdir())) == MAPPED)

        scheduler.send_signal(signal.SIGTERM)
        until(cluster, lambda: b"Shutting down LocalExecutor" in (tmp_path / "first.log").read_bytes())
        (gate / "open").touch()
        assert scheduler.wait(PATIENCE) == 0, (tmp_path / "first.log").read_text()
        assert [run.state for run in cluster.api.runs()] == ["running"]
        assert states(cluster)["before_the_gate", "success"] == MAPPED

    with async_scheduler(cluster, gate, tmp_path / "second.log") as scheduler:
        until(cluster, lambda: [run.state for run in cluster.api.runs()] == ["success"])
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(PATIENCE) == 0, (tmp_path / "second.log").read_text()

    assert states(cluster) == {("before_the_gate", "success"): MAPPED, ("after_the_gate", "success"): 1}
    assert {task.try_number for task in cluster.api.task_instances()} == {1}
    ran = {file.name: file.read_text() for file in gate.iterdir() if file.name != "open"}
    assert ran == dict.fromkeys(("before_1", "before_2", "before_3", "after"), "ran\n")
