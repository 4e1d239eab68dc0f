"""Writes a trace that opens in Perfetto (ui.perfetto.dev, or any copy of it): Chrome's JSON trace format.

Rules that Perfetto has, and this keeps to: slices on one track must nest, or the later one is dropped; so
what may overlap goes to lanes. An arrow is drawn from the slice that starts earlier; so each wait's arrow
ends in a short marker on the holder's track just after the wait began, and waits have a process of their
own.
"""

from __future__ import annotations

import gzip
import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from async_scheduler.contention.matrix import DATABASE, IN_PROCESS, holder_label, label
from async_scheduler.measure.events import Iteration, Lag, Transaction, Wait

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from async_scheduler.contention.building import Joined

ROUTINES, WAITS, HOLDS = 1, 2, 3
PROCESSES = {ROUTINES: "routines", WAITS: "waits (arrows lead to the holder)", HOLDS: "locks held"}
MAX_EVENTS = 400_000
MARKER_NS = 1_000

Event = dict[str, Any]


class Lanes:
    """Gives each named track as many threads as it takes for its slices to nest."""

    def __init__(self, process: int, first_thread: int) -> None:
        self._process = process
        self._threads = itertools.count(first_thread)
        self._ends: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.names: dict[int, str] = {}

    def place(self, track: str, start: int, end: int) -> int:
        """Return the thread for a slice of *track*; calls come in order of start."""
        lanes = self._ends[track]
        for index, (thread, busy_until) in enumerate(lanes):
            if busy_until <= start:
                lanes[index] = (thread, end)
                return thread
        thread = next(self._threads)
        lanes.append((thread, end))
        self.names[thread] = track if len(lanes) == 1 else f"{track} ({len(lanes)})"
        return thread

    def metadata(self) -> Iterator[Event]:
        """Yield the names of the threads."""
        for thread, name in self.names.items():
            yield {
                "ph": "M",
                "pid": self._process,
                "tid": thread,
                "name": "thread_name",
                "args": {"name": name},
            }


class Exporter:
    """Collects the events of one trace."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined
        self._zero = joined.trace.interval[0]
        self._texts = joined.trace.statements
        self._flows = itertools.count(1)
        self._holders: dict[int, tuple[int, Transaction]] = {}
        self._marked: dict[int, int] = defaultdict(int)
        self._lanes = {process: Lanes(process, 1) for process in PROCESSES}
        self.left_out = 0

    def events(self) -> list[Event]:
        """Return all events; beyond the cap, routines' details are left out and counted."""
        waits = [w for w in self._joined.waits if w.what in DATABASE or w.what in IN_PROCESS]
        found = [*self._metadata(), *self._holds(), *self._waits(waits), *self._lags()]
        for event in self._routines():
            if len(found) < MAX_EVENTS:
                found.append(event)
            else:
                self.left_out += 1
        for lanes in self._lanes.values():
            found.extend(lanes.metadata())
        return found

    def _metadata(self) -> Iterator[Event]:
        for process, name in PROCESSES.items():
            yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": name}}
            yield {"ph": "M", "pid": process, "name": "process_sort_index", "args": {"sort_index": process}}

    def _slice(self, process: int, thread: int, name: str, start: int, end: int, **details: Any) -> Event:
        return {
            "ph": "X",
            "pid": process,
            "tid": thread,
            "name": name,
            "ts": (start - self._zero) / 1000,
            "dur": max(0, end - start) / 1000,
            "args": details,
        }

    def _routines(self) -> Iterator[Event]:
        by_activity: dict[int, list[Transaction]] = defaultdict(list)
        for transaction in self._joined.trace.transactions:
            by_activity[transaction.activity].append(transaction)
        lanes = self._lanes[ROUTINES]
        for iteration in self._joined.trace.iterations:
            thread = lanes.place(iteration.routine, iteration.start, iteration.end)
            yield self._slice(
                ROUTINES,
                thread,
                iteration.routine,
                iteration.start,
                iteration.end,
                iteration=iteration.iteration,
                claimed=iteration.claimed,
                **({"error": iteration.error} if iteration.error else {}),
            )
            yield from self._inside(iteration, by_activity.get(iteration.activity, ()), thread)

    def _inside(
        self, iteration: Iteration, transactions: Iterable[Transaction], thread: int
    ) -> Iterator[Event]:
        """Yield the transactions of a pass and their statements, as far as they nest."""
        reached = iteration.start
        for transaction in transactions:
            start, end = max(reached, transaction.start), min(iteration.end, transaction.end)
            if end <= start:
                continue
            reached = end
            yield self._slice(
                ROUTINES,
                thread,
                "transaction",
                start,
                end,
                backend=transaction.pid,
                outcome=transaction.outcome,
            )
            yield from self._statements(transaction, start, end, thread)

    def _statements(self, transaction: Transaction, start: int, end: int, thread: int) -> Iterator[Event]:
        reached = start
        commit = transaction.end - transaction.commit_ns
        for run in transaction.statements:
            begin, finish = max(reached, run.start), min(end, commit, run.start + run.ns)
            if finish > begin:
                reached = finish
                yield self._slice(ROUTINES, thread, self._text(run.hash), begin, finish, rows=run.rows)
        if end > max(commit, reached):
            yield self._slice(ROUTINES, thread, "commit", max(commit, reached), end)

    def _holds(self) -> Iterator[Event]:
        lanes = self._lanes[HOLDS]
        held = [t for t in self._joined.trace.transactions if t.lock_from is not None]
        for transaction in sorted(held, key=lambda t: t.lock_from or 0):
            start = transaction.lock_from or transaction.start
            track = f"{transaction.routine or '(unattributed)'} holds"
            thread = lanes.place(track, start, transaction.end)
            self._holders[transaction.number] = (thread, transaction)
            yield self._slice(
                HOLDS,
                thread,
                "holds locks",
                start,
                transaction.end,
                taken_by=self._text(transaction.lock_hash or ""),
                backend=transaction.pid,
            )

    def _waits(self, waits: Iterable[Wait]) -> Iterator[Event]:
        lanes = self._lanes[WAITS]
        for wait in sorted(waits, key=lambda w: w.t_start):
            waiter, holder = label(wait.waiter), holder_label(wait)
            thread = lanes.place(f"{waiter} waits", wait.t_start, wait.t_end)
            what = wait.object.relation or wait.object.key or wait.what
            yield self._slice(
                WAITS,
                thread,
                f"for {holder} on {what}",
                wait.t_start,
                wait.t_end,
                exactness=wait.exactness,
                statement=self._text(wait.waiter.statement or ""),
                held_by=self._text((wait.root_blocker and wait.root_blocker.statement) or ""),
            )
            yield from self._arrow(wait, thread, waiter)

    def _arrow(self, wait: Wait, thread: int, waiter: str) -> Iterator[Event]:
        root = wait.root_blocker
        if root is None or root.transaction is None or root.transaction not in self._holders:
            return
        track, transaction = self._holders[root.transaction]
        start = max(wait.t_start + MARKER_NS, self._marked[track], transaction.lock_from or transaction.start)
        if start + MARKER_NS > transaction.end:
            return
        self._marked[track] = start + MARKER_NS
        flow = next(self._flows)
        common = {"name": "blocked by", "cat": "lock", "id": flow}
        yield self._slice(HOLDS, track, f"blocks {waiter}", start, start + MARKER_NS)
        yield {**common, "ph": "s", "pid": WAITS, "tid": thread, "ts": (wait.t_start - self._zero) / 1000}
        yield {**common, "ph": "f", "bp": "e", "pid": HOLDS, "tid": track, "ts": (start - self._zero) / 1000}

    def _lags(self) -> Iterator[Event]:
        for lag in self._joined.trace.of(Lag):
            yield {
                "ph": "C",
                "pid": ROUTINES,
                "name": "loop lag, ms",
                "ts": (lag.at - self._zero) / 1000,
                "args": {"ms": lag.ns / 1e6},
            }

    def _text(self, hash_: str) -> str:
        known = self._texts.get(hash_)
        return " ".join(known.text.split())[:200] if known is not None else ""


def write(joined: Joined, path: Path) -> int:
    """Write *joined* for Perfetto, gzipped if the name says so; return how many events were left out."""
    exporter = Exporter(joined)
    content = msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": exporter.events()})
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    path.write_bytes(content)
    return exporter.left_out
