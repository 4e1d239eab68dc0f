"""The benchmark's executor, made to misbehave: it arms crash points, raises, hangs, and tells stories."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from airflow._shared.observability.metrics import stats
from airflow.jobs import job
from airflow.models.taskinstancekey import TaskInstanceKey

from async_scheduler.routines import timers
from poc_bench.executor import wire
from poc_bench.executor.bench import BenchExecutor
from tests.faults import crashpoints
from tests.faults.schedulers import BEHAVIOUR

SHARE = 0.05
"""How often: the share of its heartbeats."""
EVERY = 1.0
"""Seconds between two passes of the timers that have no setting, so that a test meets them."""


FOUND_TAKEN = frozenset({"locked", "lost_race", "busy"})
"""Counts of routines that say that another scheduler had what they wanted."""


class Counts:
    """Counts what its scheduler tells Airflow's metrics of locks, and leaves it in a file now and then."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"counts-{os.getpid()}.json"
        self._counts: Counter[str] = Counter()
        self._written = 0.0
        self._report = stats.incr
        stats.incr = self._incr

    def _incr(self, stat: str, count: int = 1, *args: Any, **more: Any) -> None:
        tags = more.get("tags") or {}
        if stat == "async_scheduler.routine.count" and tags["what"] in FOUND_TAKEN:
            self.add(f"{tags['routine']} {tags['what']}", count)
        elif stat == "async_scheduler.routine.retries":
            self.add(f"{tags['routine']} {tags['fault']}", count)
        elif stat == "scheduler.critical_section_busy":
            self.add("critical section busy", count)
        self._report(stat, count, *args, **more)

    def add(self, what: str, count: int = 1) -> None:
        """Count."""
        self._counts[what] += count

    def write(self) -> None:
        """Write the file, if the last time is a second ago; whole or not at all."""
        if time.monotonic() - self._written > 1:
            self._written = time.monotonic()
            whole = self._file.with_suffix(".new")
            whole.write_text(json.dumps(dict(self._counts)))
            whole.replace(self._file)


def _sleep_by_another_way() -> None:
    """Under libfaketime ``time.sleep``, which waits until an absolute moment, fails with EINVAL."""
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        time.sleep = job.sleep = _wait


def _wait(seconds: Any) -> None:
    threading.Event().wait(seconds)


class FaultExecutor(BenchExecutor):
    """Hands work to the tests' workers, and misbehaves as the environment tells it to."""

    def start(self) -> None:
        """Connect to the workers; arm the crash point."""
        super().start()
        self._random = random.Random()
        self._done: list[TaskInstanceKey] = []
        for timer in timers.TIMERS:
            if isinstance(timer.interval, float):
                object.__setattr__(timer, "interval", EVERY)
        _sleep_by_another_way()
        self._counts = Counts(Path(os.environ[wire.READY_DIRECTORY]).parent)
        crashpoints.arm()

    def heartbeat(self) -> None:
        """Do what an executor does, or something else."""
        behaviour = os.environ.get(BEHAVIOUR)
        if behaviour and self._random.random() < SHARE:
            self._counts.add(f"executor {behaviour}")
            getattr(self, f"_{behaviour}")()
        super().heartbeat()
        self._counts.write()

    def success(self, key: Any, info: Any = None) -> None:
        """Report it; remember the key, to report it again one day."""
        super().success(key, info)
        self._done = [*self._done[-50:], key]

    def _raises(self) -> None:
        raise RuntimeError("planted: the executor's broker has gone")

    def _hangs(self) -> None:
        time.sleep(self._random.uniform(0.5, 3.0))

    def _lies(self) -> None:
        """Report what is unknown, what was long ago, and in words that nobody knows."""
        self.event_buffer[TaskInstanceKey("nobody", "knows", "this", 1)] = ("success", None)
        for key in self._done[:3]:
            self.event_buffer[key] = ("failed", "stale")
            older = TaskInstanceKey(*key.primary[:3], try_number=key.try_number - 1, map_index=key.map_index)
            self.event_buffer[older] = ("success", "staler")
            self.event_buffer[TaskInstanceKey(*key.primary[:3], try_number=99)] = ("exploded", None)
