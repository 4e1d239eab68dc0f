"""What the demo does with what the API tells it, without a cluster."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from async_scheduler.devcluster import demo
from async_scheduler.devcluster.cluster import ClusterOptions
from async_scheduler.devcluster.data_directory import DataDirectory
from async_scheduler.devcluster.expectations import RunRecord, TaskRecord
from async_scheduler.devcluster.problem import ClusterProblem
from async_scheduler.devcluster.screen import Screen

DECLARED = """
[asked]
start = "trigger"
runs = 2
state = "success"
tasks = { success = 2 }

[made]
start = "timetable"
runs = 1
state = "failed"
tasks = { failed = 1 }
"""


@dataclass
class FakeCluster:
    """An Airflow in which each triggered run ends in *end*, and the timetable's fails."""

    end: str = "success"
    dags: set[str] = field(default_factory=lambda: {"asked", "made"})
    broken: list[str] = field(default_factory=list)
    unpaused: list[str] = field(default_factory=list)
    triggered: list[str] = field(default_factory=list)
    url: str = "http://localhost:1"

    @property
    def api(self) -> FakeCluster:
        return self

    @property
    def processes(self) -> FakeCluster:
        return self

    @property
    def data(self) -> DataDirectory:
        return DataDirectory(Path("/data"))

    def wait(self, seconds: float) -> None:
        raise ClusterProblem("waited", "")

    def dag_ids(self) -> set[str]:
        return self.dags

    def import_errors(self) -> list[str]:
        return self.broken

    def unpause(self, dag_id: str) -> None:
        self.unpaused.append(dag_id)

    def trigger(self, dag_id: str) -> None:
        assert set(self.unpaused) == {"asked", "made"}
        self.triggered.append(dag_id)

    def runs(self) -> list[RunRecord]:
        asked = [RunRecord(dag_id, f"r{n}", self.end, None, None) for n, dag_id in enumerate(self.triggered)]
        return [*asked, RunRecord("made", "r", "failed", None, None)]

    def task_instances(self) -> list[TaskRecord]:
        return [
            TaskRecord(run.dag_id, run.run_id, "t", run.state if run.state != "queued" else "none", 1)
            for run in self.runs()
        ]


def run(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    @contextmanager
    def running(options: Any, screen: Any) -> Iterator[FakeCluster]:
        yield cluster

    monkeypatch.setattr(demo, "running_cluster", running)
    (tmp_path / "expected_runs.toml").write_text(DECLARED)
    output = io.StringIO()
    options = ClusterOptions(DataDirectory(tmp_path), "demo", config=tmp_path)
    good = demo.run_demo(options, Screen(Console(file=output, width=100)), timeout=0)
    return good, output.getvalue()


def test_runs_that_end_as_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster()
    good, output = run(cluster, tmp_path, monkeypatch)
    assert good
    assert cluster.triggered == ["asked", "asked"]
    assert "2 success" in output
    assert "✓ must fail" in output
    assert "2 of 2 DAGs ended, 3 of 3 task instances" in output
    assert output.endswith("Every run ended as expected.\n")


@pytest.mark.parametrize("end", ["failed", "queued"])
def test_runs_that_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    good, output = run(FakeCluster(end), tmp_path, monkeypatch)
    assert not good
    assert "✗ asked: runs success: 0 instead of 2" in output
    assert "✗ made" not in output
    assert output.endswith("Not every run ended as expected.\n")


def test_a_dag_file_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(dags={"made"}, broken=["asked.py: SyntaxError: invalid syntax"])
    with pytest.raises(ClusterProblem, match=r"cannot be imported: asked\.py: SyntaxError"):
        run(cluster, tmp_path, monkeypatch)


def test_a_dag_that_nobody_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(dags={"asked", "made", "surprise"})
    with pytest.raises(ClusterProblem, match="No expected end is declared for: surprise"):
        run(cluster, tmp_path, monkeypatch)


def test_it_waits_for_dags_that_are_not_parsed_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterProblem, match="waited"):
        run(FakeCluster(dags=set()), tmp_path, monkeypatch)
