"""``python -m tests.faults.soak``: one scheduler works for a long time; does its memory stay flat?

The scheduler creates all runs itself. Growth is the highest resident set of the last fifth over that of the
fifth after the warm-up (the first fifth), in percent.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from cryptography.fernet import Fernet
from sqlalchemy import create_engine, text

from tests.faults.field import ALGORITHMS, Field, Fields
from tests.faults.server import FaultServer

if TYPE_CHECKING:
    from collections.abc import Mapping

DAGS, TASKS = 20, 50
LIMIT = 5.0
"""Percent by which the resident set may grow after the warm-up."""
LOOK = 1.0
QUICK: Mapping[str, str] = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"}


@dataclass(slots=True)
class Soak:
    """What was seen: (task instances ended, resident set in MiB), and what follows from it."""

    algorithm: str
    task_instances: int
    seconds: float = 0.0
    samples: list[tuple[int, float]] = field(default_factory=list)

    def highest(self, first: float, last: float) -> float:
        """Return the highest resident set between two shares of the work."""
        within = [mib for done, mib in self.samples if first <= done / self.task_instances <= last]
        return max(within, default=0.0)

    @property
    def growth(self) -> float:
        """Percent of growth after the warm-up."""
        early = self.highest(0.2, 0.4)
        return 100 * (self.highest(0.8, 1.0) / early - 1) if early else float("nan")


def soak(fields: Fields, algorithm: str, task_instances: int) -> Soak:
    """Let one scheduler work until so many task instances have ended."""
    runs = max(1, round(task_instances / DAGS / TASKS))
    seen = Soak(algorithm, runs * DAGS * TASKS)
    label = f"catch-up:dags={DAGS},intervals={runs},tasks={TASKS}"
    with fields.unjudged(label, QUICK) as one:
        scheduler = one.schedulers.start("soak", "--async", **ALGORITHMS[algorithm])
        one.open(1)
        began = time.monotonic()
        _watch(one, psutil.Process(scheduler.pid), seen)
        seen.seconds = round(time.monotonic() - began, 1)
        if scheduler.code is not None:
            raise SystemExit(f"the scheduler has ended with code {scheduler.code}: {scheduler.text[-2000:]}")
        one.schedulers.stop()
    return seen


def _watch(one: Field, process: psutil.Process, seen: Soak) -> None:
    engine = create_engine(one.address.sync_url, connect_args={"application_name": "faults-soak"})
    ended = text("SELECT count(*) FROM task_instance WHERE state IN ('success', 'failed')")
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        with engine.begin() as connection:
            done = connection.scalar(ended) or 0
        seen.samples.append((done, round(process.memory_info().rss / 2**20, 1)))
        print(*seen.samples[-1], flush=True)  # noqa: T201
        if done >= seen.task_instances:
            break
        time.sleep(max(LOOK, seen.task_instances / 200_000))
    engine.dispose()


def main() -> int:
    """Soak, say what came of it, and return 1 when memory grew by more than is allowed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--tis", type=int, default=20_000)
    parser.add_argument("--algorithm", choices=tuple(ALGORITHMS), default="redesigned")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keys = {
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o711)
        server = FaultServer()
        try:
            seen = soak(Fields(server, Path(folder), keys), arguments.algorithm, arguments.tis)
        finally:
            server.close()
    figures = {
        **asdict(seen),
        "growth_percent": round(seen.growth, 2),
        "after_warm_up_mib": seen.highest(0.2, 0.4),
        "at_the_end_mib": seen.highest(0.8, 1.0),
    }
    print(json.dumps({k: v for k, v in figures.items() if k != "samples"}))  # noqa: T201
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(figures) + "\n")
    return int(not seen.growth < LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
