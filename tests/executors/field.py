"""A cluster without a scheduler, the schedulers that a test starts on it, and what the tasks wrote down."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.support.process import PATIENCE

if TYPE_CHECKING:
    from async_scheduler.devcluster.cluster import Cluster
    from async_scheduler.devcluster.expectations import TaskRecord
    from tests.executors.redis import Redis

WAIT = 0.2


@dataclass
class Scheduler:
    """A scheduler's process, in a session of its own, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def kill(self) -> None:
        """Kill it with all it has started, as when its machine is gone."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        for one in family:
            one.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """End it as an operator would."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.text


@dataclass
class Field:
    """What a test works with."""

    cluster: Cluster
    redis: Redis
    work: Path
    folder: Path
    schedulers: list[Scheduler] = field(default_factory=list)

    def start(self, **environment: str) -> Scheduler:
        """Start ``airflow scheduler --async``; *environment* adds to its variables."""
        log = self.folder / f"scheduler-{len(self.schedulers)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["airflow", "scheduler", "--async", "--skip-serve-logs"],
                env={**self.cluster.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.schedulers.append(Scheduler(process, log))
        return self.schedulers[-1]

    def trigger(self, dag_id: str, runs: int = 1) -> None:
        """Trigger runs of a dag once it has been parsed."""
        self.until(lambda: dag_id in self.cluster.api.dag_ids())
        self.cluster.api.unpause(dag_id)
        for _ in range(runs):
            self.cluster.api.trigger(dag_id)

    def succeeded(self, runs: int = 1) -> bool:
        """Whether that many runs have come to a good end; none to a bad one."""
        states = self.run_states()
        assert "failed" not in states, "\n".join(one.text[-5000:] for one in self.schedulers)
        return states == ["success"] * runs

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds, or a process of the cluster has ended."""
        for _ in range(round(PATIENCE / WAIT)):
            if condition():
                return
            self.cluster.processes.wait(WAIT)
        raise AssertionError("waited too long:\n" + "\n".join(one.text[-5000:] for one in self.schedulers))

    def run_states(self) -> list[str]:
        """Return the states of all runs."""
        return sorted(run.state for run in self.cluster.api.runs())

    def task_instances(self) -> list[TaskRecord]:
        """Return all task instances."""
        return self.cluster.api.task_instances()

    def ran(self) -> dict[str, list[str]]:
        """Return for each task where it was run, once for each time."""
        return {path.name: path.read_text().split() for path in self.work.iterdir() if path.name != "open"}

    def end(self) -> None:
        """Leave no scheduler behind."""
        for scheduler in self.schedulers:
            if scheduler.process.poll() is None:
                scheduler.kill()
