"""Faults, each with its own small place: what is done to whom, at moments drawn from a seed."""

from __future__ import annotations

import random
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from tests.faults.watch import OURS

if TYPE_CHECKING:
    from tests.faults.field import Field
    from tests.faults.link import FaultyLink
    from tests.faults.schedulers import Scheduler
    from tests.faults.server import Shutdown, SmallDisk

Start = Callable[[str], object]
"""Starts a scheduler, given a label."""


CHANGES_BETWEEN_JUMPS = 50
"""Of rows by schedulers, before their clock jumps again: some twelve task instances."""


class Injector(ABC):
    """Injects one kind of fault at random moments, from a thread of its own, until stopped."""

    name: str

    def __init__(self, field: Field, start: Start, seed: int, shortest: float, longest: float) -> None:
        """Hit *field* every *shortest* to *longest* seconds; *start* replaces a lost scheduler."""
        self.field = field
        self.start = start
        self.random = random.Random(f"{self.name} {seed}")
        self.injected: Counter[str] = Counter()
        self._pauses = shortest, longest
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def __enter__(self) -> Injector:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Inject no more."""
        self._stop.set()
        self._thread.join()

    def pause(self, seconds: float) -> None:
        """Wait, unless stopped."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        while not self._stop.wait(self.random.uniform(*self._pauses)):
            try:
                for name in self.inject():
                    self.injected[name] += 1
            except psycopg2.Error:
                continue  # the server was hit by another fault at this moment

    @abstractmethod
    def inject(self) -> list[str]:
        """Inject one fault, or some; return the name of each."""

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Run *statement* on the field's database."""
        connection = psycopg2.connect(self.field.address.dsn(), application_name="faults-injector")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def progress(self) -> int:
        """Return how many changes of work schedulers have made."""
        query = "SELECT count(*) FROM fault_audit WHERE kind <> 'job' AND who !~ '^(bench|faults)-'"
        return int(str(self.query(query)[0][0]))

    def wait_for_progress(self, changes: int = 1) -> float:
        """Wait until schedulers have changed *changes* rows, a minute at most; return the seconds."""
        waited, wanted = 0.0, self.progress() + changes
        while self.progress() < wanted and self.field.left and waited < 60:
            looked = time.monotonic()
            time.sleep(0.05)
            # On a busy machine nobody gets on, this loop no more than the schedulers: it is their clock.
            waited += min(0.1, time.monotonic() - looked)
        return waited


class TerminateBackends(Injector):
    """Ends random connections of schedulers, busy ones first."""

    name = "backend terminated"

    def inject(self) -> list[str]:
        """End one connection or a few."""
        some = self.random.choice((1, 1, 1, 2, 3))
        ended = self.query(
            f"SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE {OURS}"
            f" ORDER BY state = 'idle', random() LIMIT {some}) AS victims"
        )
        return [self.name] * len(ended)


class RestartServer(Injector):
    """Restarts PostgreSQL under load and measures how soon the work goes on."""

    name = "server restarted"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.resumed_after: list[float] = []

    def inject(self) -> list[str]:
        """Restart it, fast or immediately."""
        mode: Shutdown = self.random.choice(("fast", "immediate"))
        self.field.server.restart(mode)
        waited = self.wait_for_progress()
        if self.field.left:
            self.resumed_after.append(waited)
        return [f"server restarted ({mode})"]


class HurtLink(Injector):
    """Stalls and resets connections of the link, and passes half messages."""

    name = "link hurt"
    link: FaultyLink

    def inject(self) -> list[str]:
        """Hurt one connection, or all."""
        return self.link.hurt(self.random)


class FillDisk(Injector):
    """Fills the disk of the database and makes room again after a while."""

    name = "disk full"
    disk: SmallDisk

    def inject(self) -> list[str]:
        """Fill it for some seconds."""
        self.disk.fill()
        self.pause(self.random.uniform(1.0, 4.0))
        self.disk.free()
        return [self.name]


class SetClock(Injector):
    """Sets the schedulers' clock an hour on or back, and right again after a while."""

    name = "clock jumped"
    clock: Path

    def inject(self) -> list[str]:
        """Jump, wait, jump back; replace schedulers that another one has declared dead."""
        there = self.random.choice(("+3600", "-3600"))
        for offset in (there, "+0"):
            self.clock.write_text(f"{offset}\n")
            self.pause(self.random.uniform(3.0, 6.0))
            for _ in range(2 - len(self.field.schedulers.running)):
                self.start("replacement")
        # Each jump ends schedulers, and others put back what those had queued. On a slow machine the next one
        # came before the new ones had got on at all.
        self.wait_for_progress(CHANGES_BETWEEN_JUMPS)
        return [f"clock jumped {there} s and back"]


_IN_RUNNING_RUNS = (
    "coalesce(state, '') IN ('', 'up_for_retry') AND (dag_id, run_id) IN"
    " (SELECT dag_id, run_id FROM dag_run WHERE state = 'running')"
)
WANTED = {
    "task instances": ("task_instance", "id", _IN_RUNNING_RUNS),
    "runs": ("dag_run", "id", "state = 'running'"),
    "dags": ("dag", "dag_id", "true"),
}
"""Table, key and condition of rows that schedulers write."""


class LockRows(Injector):
    """A second session takes rows that schedulers want, against their order, and lets go after a while."""

    name = "rows locked"

    def inject(self) -> list[str]:
        """Lock task instances backwards, or runs, or pools; deadlocks are the point."""
        connection = psycopg2.connect(self.field.address.dsn(), application_name="faults-locker")
        try:
            with connection.cursor() as cursor:
                kind = self.random.choice(("task instances", "task instances", "runs", "pools", "dags"))
                try:
                    self._lock(cursor, kind)
                except psycopg2.errors.DeadlockDetected:
                    return [f"{kind} locked", "deadlock (the intruder lost)"]
        finally:
            connection.close()
        return [f"{kind} locked"]

    def _lock(self, cursor: psycopg2.extensions.cursor, kind: str) -> None:
        if kind == "pools":
            cursor.execute("SELECT 1 FROM slot_pool FOR UPDATE")
            self.pause(self.random.uniform(0.05, 0.8))
            return
        table, key, which = WANTED[kind]
        cursor.execute(f"SELECT {key} FROM {table} WHERE {which} ORDER BY {key} DESC LIMIT 20")
        for (row,) in cursor.fetchall():
            cursor.execute(f"SELECT 1 FROM {table} WHERE {key} = %s FOR UPDATE", (row,))
            self.pause(0.03)
        self.pause(self.random.choice((0.0, 1.0)))


class KillSchedulers(Injector):
    """``kill -9`` of a scheduler at any moment; another one takes its place at once."""

    name = "scheduler killed"
    seen: object = None

    def inject(self) -> list[str]:
        """Kill one that turns, if the work went on since the last kill, and start another."""
        running = self.field.schedulers.running
        if running and self.seen == (seen := self.progress()):
            return []  # on a busy machine all would be killed before they have begun
        turning = [one for one in running if (self.field.folder / "ready" / str(one.pid)).exists()]
        if turning:
            self.random.choice(turning).kill()
            self.seen = seen
        if turning or not running:
            self.start("replacement")
        return [self.name] if turning else []


class PauseSchedulers(Injector):
    """SIGSTOP for longer than the health check's threshold, then SIGCONT: others have taken the work."""

    name = "scheduler paused"

    SECONDS = 10.0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.paused: list[Scheduler] = []

    def inject(self) -> list[str]:
        """Pause one; while it sleeps, a replacement keeps the number of those that work."""
        running = [one for one in self.field.schedulers.running if one not in self.paused]
        if len(running) < 2:
            self.start("replacement")
            return []
        victim = self.random.choice(running)
        victim.signal(signal.SIGSTOP)
        self.paused.append(victim)
        self.pause(self.SECONDS)
        victim.signal(signal.SIGCONT)
        return [self.name]
