"""Starts ``airflow scheduler`` as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.executor import RUN_LOG

if TYPE_CHECKING:
    from tests.support.airflow_db import Reachable

ROOT = Path(__file__).parents[2]
PATIENCE = 300
"""Seconds after which a process that should have ended counts as hung."""


class SchedulerProcess:
    """A running scheduler; its output goes to a file."""

    def __init__(self, args: list[str], env: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs", *args],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return its exit code, once it has ended."""
        return self._process.wait(PATIENCE)

    def poll(self) -> int | None:
        """Return its exit code if it has ended."""
        return self._process.poll()

    def kill(self) -> None:
        """Make sure that nothing of it is left."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(PATIENCE)


class Schedulers:
    """Starts schedulers on one database and remembers what their executors ran."""

    def __init__(self, database: Reachable, directory: Path) -> None:
        self._database = database
        self._directory = directory
        self._started: list[SchedulerProcess] = []
        self.run_log = directory / "runs"
        self.run_log.touch()

    def start(self, *args: str, **environment: str) -> SchedulerProcess:
        """Start ``airflow scheduler`` with *args*; *environment* adds to its variables."""
        output = self._directory / f"scheduler-{len(self._started)}.log"
        self._started.append(SchedulerProcess(list(args), self.environment(**environment), output))
        return self._started[-1]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a process that works on the database, *more* among them."""
        return {
            **os.environ,
            **self._database.environment,
            "AIRFLOW__CORE__EXECUTOR": "tests.support.executor.InstantExecutor",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "PYTHONPATH": str(ROOT),
            RUN_LOG: str(self.run_log),
            **more,
        }

    def runs(self) -> list[tuple[str, str]]:
        """Return (process id, task instance and try) for each time a task was run."""
        lines = self.run_log.read_text().splitlines()
        return [(pid, task) for pid, _, task in (line.partition(" ") for line in lines)]

    def stop(self) -> None:
        """End what still runs."""
        for process in self._started:
            process.kill()


@contextmanager
def schedulers_on(database: Reachable, directory: Path) -> Iterator[Schedulers]:
    """Yield a starter of schedulers; none outlives the block."""
    schedulers = Schedulers(database, directory)
    try:
        yield schedulers
    finally:
        schedulers.stop()
