"""Writes into the metadata database from several threads until its input ends, as an API server does.

``python -m tests.databases.writers`` prints how many writes there were, how many failed, and how many
seconds the longest took.
"""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime
from itertools import count
from random import Random
from time import monotonic

from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError

THREADS = 8
PAUSE = 0.02
"""Seconds between two writes of a thread."""


class Writers:
    """Threads that note heartbeats of task instances."""

    def __init__(self) -> None:
        self.written = self.failed = 0
        self.longest = 0.0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]

    def run(self) -> None:
        """Write until the input ends."""
        for thread in self._threads:
            thread.start()
        sys.stdin.read()
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        random = Random(number)
        with create_session() as session:
            rows = session.scalar(select(func.count()).select_from(TaskInstance)) or 1
        for _ in count():
            if self._end.wait(PAUSE):
                return
            began = monotonic()
            failed = not self._write(random.randrange(rows))
            with self._lock:
                self.longest = max(self.longest, monotonic() - began)
                self.failed += failed
                self.written += not failed

    def _write(self, offset: int) -> bool:
        try:
            with create_session() as session:
                some = select(TaskInstance.id).offset(offset).limit(1).scalar_subquery()
                now = datetime.now(UTC)
                session.execute(
                    update(TaskInstance).where(TaskInstance.id == some).values(last_heartbeat_at=now)
                )
        except OperationalError as error:
            print(error.orig, file=sys.stderr)  # noqa: T201
            return False
        return True


if __name__ == "__main__":
    writers = Writers()
    writers.run()
    print(  # noqa: T201
        json.dumps({"written": writers.written, "failed": writers.failed, "longest": writers.longest})
    )
