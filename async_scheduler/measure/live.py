"""What a running process is doing, for a live view: the last minute by routine, and who waits right now."""

from __future__ import annotations

import os
from collections import deque
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

import msgspec

from async_scheduler.measure.events import Deadlock, Event, Iteration, Lag, Party, Transaction, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_scheduler.measure.instrument import Instrument
    from async_scheduler.measure.registry import Wait as WaitUnderWay

WINDOW_NS = 60 * 10**9
KEPT = 20_000


class RoutineView(msgspec.Struct, kw_only=True):
    """A routine over the last minute; times in nanoseconds, summed."""

    name: str
    passes: int = 0
    wall_ns: int = 0
    cpu_ns: int | None = None
    pool_ns: int = 0
    statement_ns: int = 0
    commit_ns: int = 0
    lock_ns: int = 0
    other_ns: int = 0
    wanted: int = 0
    claimed: int = 0
    busy: int = 0
    transactions: int = 0
    last_error: str | None = None
    running_ns: int | None = None


class TransactionSpan(msgspec.Struct, array_like=True, frozen=True):
    """Whose a backend was, and when."""

    pid: int
    start: int
    end: int
    routine: str | None
    iteration: int
    lock_from: int | None
    lock_hash: str | None
    number: int


class PoolView(msgspec.Struct, kw_only=True):
    """The connection pools together."""

    size: int
    in_use: int
    waiting: int


class Snapshot(msgspec.Struct, kw_only=True):
    """One second of a live view: the last ``window_ns``, a minute once it has watched so long.

    ``spans`` are the transactions that ended since the last snapshot.
    """

    at: int
    window_ns: int
    pid: int
    process: str
    labels: dict[str, str]
    tracing: str | None
    routines: list[RoutineView]
    parties: dict[int, Party]
    spans: list[TransactionSpan]
    waits: list[Wait]
    waiting: list[Wait]
    deadlocks: list[Deadlock]
    pool: PoolView
    lag_ns: int | None
    lag_max_ns: int | None


class LiveView:
    """Sums up the records of an instrument as they come; :meth:`snapshot` is cheap."""

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._began = monotonic_ns()
        self._iterations: deque[Iteration] = deque(maxlen=KEPT)
        self._waits: deque[Wait] = deque(maxlen=KEPT)
        self._lags: deque[Lag] = deque(maxlen=KEPT)
        self._deadlocks: deque[Deadlock] = deque(maxlen=10)
        self._spans: deque[TransactionSpan] = deque(maxlen=KEPT)
        self._errors: dict[str, str] = {}

    def take(self, record: Event) -> None:
        """Take one record."""
        if isinstance(record, Transaction):
            self._spans.append(span(record))
        elif isinstance(record, Iteration):
            self._iterations.append(record)
            if record.error is not None and record.error != "CancelledError":
                self._errors[record.routine] = record.error
        elif isinstance(record, Wait):
            self._waits.append(record)
        elif isinstance(record, Lag):
            self._lags.append(record)
        elif isinstance(record, Deadlock):
            self._deadlocks.append(record)

    def snapshot(self) -> Snapshot:
        """Return the last minute, and what has ended since the last call."""
        now = monotonic_ns()
        _forget(self._iterations, lambda i: i.end < now - WINDOW_NS)
        _forget(self._waits, lambda w: w.t_end < now - WINDOW_NS)
        _forget(self._lags, lambda lag: lag.at < now - WINDOW_NS)
        spans = list(self._spans)
        self._spans.clear()
        return Snapshot(
            at=now,
            window_ns=min(WINDOW_NS, now - self._began),
            pid=os.getpid(),
            process=self._instrument.process,
            labels=self._instrument.labels,
            tracing=str(self._instrument.directory) if self._instrument.directory else None,
            routines=self._routines(now),
            parties=self._instrument.parties(),
            spans=spans,
            waits=[w for w in self._waits if w.what in ("pool", "asyncio_lock")],
            waiting=[_under_way(w, now) for w in list(self._instrument.waits.waiting.values())],
            deadlocks=list(self._deadlocks),
            pool=self._pool(),
            lag_ns=self._lags[-1].ns if self._lags else None,
            lag_max_ns=max((lag.ns for lag in self._lags), default=None),
        )

    def _routines(self, now: int) -> list[RoutineView]:
        views: dict[str, RoutineView] = {}
        for iteration in self._iterations:
            view = views.setdefault(iteration.routine, RoutineView(name=iteration.routine))
            _add(view, iteration)
        for wait in self._waits:
            if wait.what == "nowait_fail" and wait.waiter.routine in views:
                views[wait.waiter.routine].busy += 1
        for name, error in self._errors.items():
            views.setdefault(name, RoutineView(name=name)).last_error = error
        for checkout in list(self._instrument.ledger.checkouts.values()):
            if (activity := checkout.holder.activity) is not None:
                view = views.setdefault(activity.routine, RoutineView(name=activity.routine))
                view.running_ns = max(view.running_ns or 0, now - activity.start)
        return sorted(views.values(), key=lambda view: view.name)

    def _pool(self) -> PoolView:
        pools: list[Any] = [engine.pool for engine in self._instrument.engines]
        return PoolView(
            size=sum(pool.size() for pool in pools if hasattr(pool, "size")),
            in_use=len(self._instrument.ledger.checkouts),
            waiting=sum(w.layer == "pool" for w in list(self._instrument.waits.waiting.values())),
        )


def span(transaction: Transaction) -> TransactionSpan:
    """Return what of *transaction* is needed to name the backends of a lock wait."""
    return TransactionSpan(
        transaction.pid,
        transaction.start,
        transaction.end,
        transaction.routine,
        transaction.iteration,
        transaction.lock_from,
        transaction.lock_hash,
        transaction.number,
    )


def _forget(records: deque[Any], old: Callable[[Any], bool]) -> None:
    while records and old(records[0]):
        records.popleft()


def _add(view: RoutineView, iteration: Iteration) -> None:
    view.passes += 1
    view.wall_ns += iteration.end - iteration.start - iteration.nested_ns
    if iteration.cpu_ns is not None:
        view.cpu_ns = (view.cpu_ns or 0) + iteration.cpu_ns
    view.pool_ns += iteration.pool_ns + iteration.connect_ns
    view.statement_ns += iteration.statement_ns
    view.commit_ns += iteration.commit_ns
    view.lock_ns += iteration.lock_ns
    view.other_ns += sum(iteration.other_ns.values())
    view.wanted += iteration.wanted
    view.claimed += iteration.claimed
    view.transactions += iteration.transactions


def _under_way(wait: WaitUnderWay, now: int) -> Wait:
    holders = [holder.party() for holder in wait.holders()]
    return Wait(
        what=wait.layer,
        t_start=wait.start,
        t_end=now,
        exactness="bound",
        waiter=wait.waiter.party(),
        source="client",
        object=wait.object,
        immediate_blockers=holders,
        root_blocker=holders[0] if len(holders) == 1 else None,
        outcome="unfinished",
    )
