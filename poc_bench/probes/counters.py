"""Figures of a process over time, in buckets of wall-clock time, so that a window can be cut out later."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BUCKETS_PER_SECOND = 20
FIELDS = (
    "statements",
    "round_trips",
    "rows",
    "commits",
    "rollbacks",
    "pings",
    "hidden_commits",
    "errors",
    "seconds",
    "busy_seconds",
)
_INDEX = {name: index for index, name in enumerate(FIELDS)}


def counters_file(process: int) -> str:
    """Return the name of the file that a process of this id leaves."""
    return f"counters-{process}.json"


class Counters:
    """What the driver was asked to do.

    ``seconds`` is the time spent in it, statements of different coroutines added up; ``busy_seconds`` the
    time with at least one under way. ``round_trips`` counts statements, BEGIN, COMMIT, ROLLBACK and pings.
    ``hidden_commits`` are those that the server counts and nobody asked for: one for each connection, and
    one for each ping or statement in autocommit.
    """

    def __init__(self) -> None:
        self._buckets: defaultdict[int, list[float]] = defaultdict(lambda: [0.0] * len(FIELDS))
        self._sqlstates: defaultdict[str, int] = defaultdict(int)
        self._stats: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._under_way = 0
        self._busy_since = 0.0

    def begin(self) -> float:
        """Note that the driver has been entered; return the time."""
        now = time.time()
        with self._lock:
            if self._under_way == 0:
                self._busy_since = now
            self._under_way += 1
        return now

    def end(self, began: float, amounts: dict[str, float]) -> None:
        """Note that the driver has been left and add *amounts* (names of :data:`FIELDS`)."""
        now = time.time()
        with self._lock:
            bucket = self._buckets[int(now * BUCKETS_PER_SECOND)]
            self._under_way -= 1
            if self._under_way == 0:
                bucket[_INDEX["busy_seconds"]] += now - self._busy_since
            bucket[_INDEX["seconds"]] += now - began
            for name, amount in amounts.items():
                bucket[_INDEX[name]] += amount

    def failed(self, sqlstate: str) -> None:
        """Count a driver error."""
        with self._lock:
            self._sqlstates[sqlstate] += 1

    def stat(self, name: str, value: float) -> None:
        """Keep a value of one of Airflow's own metrics."""
        self._stats[name].append((time.time(), value))

    def write(self, folder: Path) -> None:
        """Leave everything as a JSON file named for this process."""
        content = {
            "fields": FIELDS,
            "buckets_per_second": BUCKETS_PER_SECOND,
            "buckets": self._buckets,
            "sqlstates": self._sqlstates,
            "stats": self._stats,
        }
        (folder / counters_file(os.getpid())).write_text(json.dumps(content))
