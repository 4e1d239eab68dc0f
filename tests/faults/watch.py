"""Somebody who watches a field: who holds slots, and what the schedulers' connections do."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

if TYPE_CHECKING:
    from poc_bench.database.address import Address
    from poc_bench.database.rows import CellDatabase, TaskInstanceRow

SAMPLE = 0.5
"""Seconds between two looks at who holds slots and what connections do."""
IDLE_LIMIT = 1.0
"""Seconds for which a scheduler's connection may be idle in a transaction."""
OURS = "datname = current_database() AND application_name !~ '^(bench|faults)-'"
"""The schedulers' connections in ``pg_stat_activity``."""


@dataclass(slots=True)
class Watch:
    """Looks at the database now and then, whatever becomes of it, and keeps what it saw."""

    database: CellDatabase
    address: Address
    samples: list[list[TaskInstanceRow]] = field(default_factory=list)
    idle_in_transaction: dict[int, str] = field(default_factory=dict)
    """Process id of a connection that idled too long, and what it had last done."""
    most_connections: int = 0
    lock_waits: int = 0
    """How often a scheduler's connection was seen waiting for a lock."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        engine = create_engine(
            self.address.sync_url, connect_args={"application_name": "faults-watch"}, pool_pre_ping=True
        )
        idle = text(
            f"SELECT pid, query FROM pg_stat_activity WHERE {OURS} AND state LIKE 'idle in transaction%'"
            f" AND state_change < clock_timestamp() - interval '{IDLE_LIMIT} s'"
        )
        count = text(
            "SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock')"
            f" FROM pg_stat_activity WHERE {OURS}"
        )
        while not self._stop.wait(SAMPLE):
            try:
                self.samples.append(self.database.occupying())
                with engine.begin() as connection:
                    for pid, query in connection.execute(idle):
                        self.idle_in_transaction[pid] = query
                    found, waiting = connection.execute(count).one()
                    self.most_connections = max(self.most_connections, found)
                    self.lock_waits += waiting
            except DBAPIError:
                continue  # the server is down just now
        engine.dispose()
