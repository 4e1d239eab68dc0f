"""The benchmark's executor, made to misbehave: it arms crash points, raises, hangs, and tells stories."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from airflow.models.taskinstancekey import TaskInstanceKey

from async_scheduler.routines import timers
from poc_bench.executor.bench import BenchExecutor
from tests.faults import crashpoints
from tests.faults.schedulers import BEHAVIOUR

SHARE = 0.05
"""How often: the share of its heartbeats."""
EVERY = 1.0
"""Seconds between two passes of the timers that have no setting, so that a test meets them."""


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
        crashpoints.arm()

    def heartbeat(self) -> None:
        """Do what an executor does, or something else."""
        behaviour = os.environ.get(BEHAVIOUR)
        if behaviour and self._random.random() < SHARE:
            getattr(self, f"_{behaviour}")()
        super().heartbeat()

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
