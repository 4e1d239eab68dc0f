"""The workers of all schedulers of a cell, in one process: ``python -m poc_bench.executor.simulator FILE``.

It takes task instances from the bench executors' sockets, writes their states as the execution API would,
in batches, and says when each worker process would have ended. It knows each task's duration and outcomes
from the plan. FILE is a JSON request: database URL, socket path, workload, seed, and where to leave its own
figures.
"""

from __future__ import annotations

import heapq
import json
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from sqlalchemy import create_engine

from poc_bench.executor.transitions import Writer
from poc_bench.executor.wire import Ended, Lines, Submitted, encode
from poc_bench.workloads import sized

if TYPE_CHECKING:
    from poc_bench.plan import Plan, TaskSpec

TICK = 0.002
"""Seconds between two batches: bounds what the simulator costs when little is going on. Short, for what comes
from one scheduler just after another's batch must not wait for workers that real ones would not share."""
RETRY = 0.01
"""Seconds after which a row is tried again that somebody has locked."""
BATCH = 500
GIVE_UP_AFTER = 60.0
"""Seconds after which a row that is not there, or stays locked, counts as refused."""


@dataclass(slots=True)
class Worker:
    """One try of a task instance on its way through a worker."""

    submitted: Submitted
    client: Client
    arrived: float


@dataclass(slots=True, eq=False)
class Client:
    """A connected bench executor."""

    sock: socket.socket
    lines: Lines
    ended: list[Ended] = field(default_factory=list)


class Simulator:
    """Starts and finishes task instances until it is told to stop."""

    def __init__(self, writer: Writer, plan: Plan, listener: socket.socket) -> None:
        self._writer = writer
        self._tasks = {(dag.dag_id, task.task_id): task for dag in plan.dags for task in dag.tasks}
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._listener = listener
        self._to_start: dict[UUID, Worker] = {}
        self._running: dict[UUID, Worker] = {}
        self._due: list[tuple[float, UUID]] = []
        self._starts: Counter[tuple[str | int, ...]] = Counter()
        self._duplicates = 0
        self._refused = 0
        self._stopping = False

    def stop(self, *_: object) -> None:
        """End :meth:`run` after the batch in hand."""
        self._stopping = True

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        while not self._stopping:
            began = time.monotonic()
            self._receive(self._patience(began))
            self._start_batch()
            self._finish_batch()
            self._report()
            pause = began + (RETRY if self._to_start else TICK) - time.monotonic()
            if pause > 0 and not self._stopping:
                time.sleep(pause)

    def figures(self) -> dict[str, object]:
        """Return what the harness wants to know in the end."""
        return {
            "started": sum(self._starts.values()),
            "run_twice": [list(key) for key, count in self._starts.items() if count > 1],
            "submitted_twice": self._duplicates,
            "refused": self._refused,
            "commits": self._writer.commits,
            "backend_pid": self._writer.backend_pid,
            "left": len(self._to_start) + len(self._running),
        }

    def _patience(self, now: float) -> float:
        if self._to_start:
            return 0.0
        return min(0.5, max(0.0, self._due[0][0] - now)) if self._due else 0.5

    def _receive(self, patience: float) -> None:
        for ready, _ in self._selector.select(patience):
            client = ready.data
            if client is None:
                self._welcome()
            else:
                self._take(client)

    def _welcome(self) -> None:
        sock, _ = self._listener.accept()
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ, Client(sock, Lines(sock)))

    def _take(self, client: Client) -> None:
        now = time.monotonic()
        for batch in client.lines.read():
            for fields in batch:
                submitted = Submitted(*fields)
                ti_id = UUID(submitted.id)
                if ti_id in self._to_start or ti_id in self._running:
                    self._duplicates += 1
                self._to_start[ti_id] = Worker(submitted, client, now)
        if client.lines.closed:
            self._selector.unregister(client.sock)
            client.sock.close()

    def _start_batch(self) -> None:
        ids = list(self._to_start)[:BATCH]
        if not ids:
            return
        started, refused = self._writer.start(ids)
        now = time.monotonic()
        for row in started:
            worker = self._running[row.id] = self._to_start.pop(row.id)
            self._starts[(row.dag_id, row.run_id, row.task_id, row.map_index, row.try_number)] += 1
            heapq.heappush(self._due, (now + self._task(worker.submitted).duration, row.id))
        for row in refused:
            self._refuse(row.id)
        for ti_id in ids:
            waiting = self._to_start.get(ti_id)
            if waiting is not None and now - waiting.arrived > GIVE_UP_AFTER:
                self._refuse(ti_id)

    def _refuse(self, ti_id: UUID) -> None:
        worker = self._to_start.pop(ti_id)
        worker.client.ended.append(Ended(worker.submitted.id, False))
        self._refused += 1

    def _finish_batch(self) -> None:
        now = time.monotonic()
        due: list[UUID] = []
        while self._due and self._due[0][0] <= now and len(due) < BATCH:
            due.append(heapq.heappop(self._due)[1])
        if not due:
            return
        states = {ti_id: self._state(self._running[ti_id].submitted) for ti_id in due}
        lengths = {
            ti_id: length
            for ti_id in due
            if (length := self._task(self._running[ti_id].submitted).pushes) is not None
        }
        done = {row.id for row in self._writer.finish(states, lengths)}
        for ti_id in due:
            if ti_id in done:
                worker = self._running.pop(ti_id)
                worker.client.ended.append(Ended(worker.submitted.id, True))
            else:
                heapq.heappush(self._due, (now + RETRY, ti_id))

    def _task(self, submitted: Submitted) -> TaskSpec:
        return self._tasks[submitted.dag_id, submitted.task_id]

    def _state(self, submitted: Submitted) -> str:
        task = self._task(submitted)
        outcome = task.outcomes[min(submitted.try_number, len(task.outcomes)) - 1]
        if outcome == "failed" and submitted.try_number <= task.retries:
            return "up_for_retry"
        return outcome

    def _report(self) -> None:
        for key in list(self._selector.get_map().values()):
            client = key.data
            if client is not None and client.ended:
                self._send(client)

    def _send(self, client: Client) -> None:
        data = encode(client.ended)
        client.ended.clear()
        client.sock.setblocking(True)
        try:
            client.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return  # the scheduler is gone; what its tasks did is in the database
        client.sock.setblocking(False)


def main(request_file: str) -> None:
    """Serve the cell that *request_file* describes until SIGTERM, then leave the figures."""
    request = json.loads(Path(request_file).read_text())
    engine = create_engine(
        request["url"],
        pool_size=1,
        max_overflow=0,
        connect_args=request["connect_arguments"],
        **request["engine_options"],
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(request["socket"])
        listener.listen()
        simulator = Simulator(Writer(engine), sized(request["workload"]).plan(request["seed"]), listener)
        signal.signal(signal.SIGTERM, simulator.stop)
        simulator.run()
    Path(request["figures"]).write_text(json.dumps(simulator.figures()))


if __name__ == "__main__":
    main(sys.argv[1])
