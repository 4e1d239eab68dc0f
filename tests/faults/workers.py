"""The worker simulator for faulty times: it outlives the database and writes down all it was given.

Some of its workers die without a word, and some of its tasks emit asset events, as the execution API does.

``python -m tests.faults.workers FILE``, with the request of :mod:`poc_bench.executor.simulator` and
``record``: a file of JSON lines, one for each workload that arrived and each that was started.
"""

from __future__ import annotations

import heapq
import json
import signal
import socket
import struct
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from poc_bench.executor.simulator import TICK, Client, Simulator, Worker
from poc_bench.executor.transitions import Writer
from poc_bench.executor.wire import Ended, Lines, Submitted
from poc_bench.workloads import sized
from tests.faults.work import CONSUMER, KILLED, PRODUCER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from io import TextIOWrapper

    from sqlalchemy.engine import Connection

    from poc_bench.executor.rows import Row
    from poc_bench.plan import Plan

EVENT = """
INSERT INTO asset_event (asset_id, extra, source_dag_id, source_task_id, source_run_id, source_map_index,
    "timestamp") SELECT id, '{}', :dag_id, :task_id, :run_id, :map_index, :now FROM asset"""
QUEUE = """
INSERT INTO asset_dag_run_queue (asset_id, target_dag_id, created_at)
SELECT id, :consumer, :now FROM asset ON CONFLICT DO NOTHING"""

LOST_AFTER = 5.0
"""Seconds after which a task instance that is not there any more was reset: its worker is told to end."""


class PersistentWriter(Writer):
    """Tries again while the database is away. A batch whose commit got no answer may be there already."""

    def start(self, ids: Collection[Any]) -> tuple[list[Row], list[Row]]:
        """Mark queued task instances running; those that an unanswered commit has started count too."""
        unsure = False
        while True:
            try:
                started, refused = super().start(ids)
            except DBAPIError:
                unsure = True
                time.sleep(0.1)
                continue
            ours = [row for row in refused if unsure and row.state == "running"]
            return started + ours, [row for row in refused if row not in ours]

    def finish(self, outcomes: dict[Any, str], pushes: dict[Any, int]) -> list[Row]:
        """Write the end of running task instances; what an unanswered commit has written is there."""
        while True:
            try:
                return super().finish(outcomes, pushes)
            except DBAPIError:
                time.sleep(0.1)

    def _follow_up(self, connection: Connection, ended: Sequence[Row], outcomes: dict[Any, str]) -> None:
        super()._follow_up(connection, ended, outcomes)
        for row in ended:
            if row.dag_id == PRODUCER and outcomes[row.id] == "success":
                _emit_event(connection, row)


def _emit_event(connection: Connection, row: Row) -> None:
    """Source: ``AssetManager.register_asset_change``."""
    event = {name: getattr(row, name) for name in ("dag_id", "task_id", "run_id", "map_index")}
    connection.execute(text(EVENT), {**event, "now": datetime.now(UTC)})
    connection.execute(text(QUEUE), {"consumer": CONSUMER, "now": datetime.now(UTC)})


class RecordingSimulator(Simulator):
    """Writes down who gave it what, and what it started. The first worker of some tasks dies."""

    def __init__(self, writer: Writer, plan: Plan, listener: socket.socket, record: TextIOWrapper) -> None:
        super().__init__(writer, plan, listener)
        self._record = record
        self._vanished: dict[UUID, float] = {}
        self._killed: set[tuple[object, ...]] = set()

    def _take(self, client: Client) -> None:
        giver = _peer(client.sock)
        lines = client.lines
        client.lines = cast("Lines", _Noting(lines, lambda given: self._note("given", giver, given)))
        super()._take(client)
        client.lines = lines

    def _note(self, event: str, scheduler: int, what: Submitted) -> None:
        self._record.write(json.dumps([event, time.time(), scheduler, *what]) + "\n")

    def _start_batch(self) -> None:
        before = dict(self._to_start)
        super()._start_batch()
        for ti_id, worker in before.items():
            if ti_id in self._running and ti_id not in self._to_start:
                self._note("started", 0, worker.submitted)
        self._record.flush()

    def _kill_batch(self) -> None:
        """Let workers end that leave their task instance running."""
        now = time.monotonic()
        for due, ti_id in list(self._due):
            worker: Worker = self._running[ti_id]
            what = worker.submitted
            name = (what.dag_id, what.run_id, what.task_id, what.map_index)
            if due <= now and what.task_id in KILLED and name not in self._killed:
                self._killed.add(name)
                self._note("killed", 0, what)
                self._due.remove((due, ti_id))
                self._end(ti_id)
        heapq.heapify(self._due)

    def _end(self, ti_id: UUID) -> None:
        worker: Worker = self._running.pop(ti_id)
        worker.client.ended.append(Ended(worker.submitted.id, False))

    def _finish_batch(self) -> None:
        self._kill_batch()
        super()._finish_batch()
        now = time.monotonic()
        late = {ti_id for due, ti_id in self._due if due < now + 2 * TICK}
        for ti_id in late - self._vanished.keys():
            self._vanished[ti_id] = now
        for ti_id in [one for one in self._vanished if one not in late]:
            del self._vanished[ti_id]
        for ti_id, since in list(self._vanished.items()):
            if now - since > LOST_AFTER:
                self._let_go(ti_id)

    def _let_go(self, ti_id: UUID) -> None:
        """End a worker whose task instance was reset: the execution API answers its heartbeat with 404."""
        del self._vanished[ti_id]
        self._due = [(due, one) for due, one in self._due if one != ti_id]
        heapq.heapify(self._due)
        self._end(ti_id)


class _Noting:
    """Passes lines on and shows each workload to *note*."""

    def __init__(self, inner: Lines, note: Any) -> None:
        self._inner = inner
        self._note = note

    @property
    def closed(self) -> bool:
        return self._inner.closed

    def read(self) -> Any:
        for batch in self._inner.read():
            for fields in batch:
                self._note(Submitted(*fields))
            yield batch


def _peer(sock: socket.socket) -> int:
    size = struct.calcsize("3i")
    pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
    return pid


def main(request_file: str) -> None:
    """Serve until SIGTERM, then leave the figures."""
    request = json.loads(Path(request_file).read_text())
    engine = create_engine(
        request["url"],
        pool_size=1,
        max_overflow=0,
        pool_pre_ping=True,
        connect_args=request["connect_arguments"],
    )
    with socket.socket(socket.AF_UNIX) as listener, open(request["record"], "w") as record:
        listener.bind(request["socket"])
        listener.listen()
        plan = sized(request["workload"]).plan(request["seed"])
        simulator = RecordingSimulator(PersistentWriter(engine), plan, listener, record)
        signal.signal(signal.SIGTERM, simulator.stop)
        simulator.run()
    Path(request["figures"]).write_text(json.dumps(simulator.figures()))


if __name__ == "__main__":
    main(sys.argv[1])
