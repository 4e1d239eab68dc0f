"""Where the routines' wall time went, and what happened while they held locks."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING

from async_scheduler.contention.matrix import DATABASE
from async_scheduler.contention.report import (
    CATEGORIES,
    HoldTime,
    RoutineTime,
    Span,
    exactly,
    percentile,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from async_scheduler.measure.events import Iteration, StatementRun, Transaction, Wait


def union_ns(spans: Iterable[tuple[int, int]]) -> int:
    """Return the length of the union of intervals."""
    total, reached = 0, 0
    for start, end in sorted(spans):
        begin = max(start, reached)
        if end > begin:
            total += end - begin
            reached = end
    return total


class LockWaits:
    """The database lock waits of our own transactions."""

    def __init__(self, waits: Iterable[Wait]) -> None:
        self._by_transaction: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for wait in waits:
            if wait.what in DATABASE and wait.waiter.transaction is not None:
                self._by_transaction[wait.waiter.transaction].append((wait.t_start, wait.t_end))

    def within(self, transaction: Transaction, start: int, end: int) -> int:
        """Return how long *transaction* waited for locks between *start* and *end*."""
        spans = self._by_transaction.get(transaction.number, ())
        return union_ns((max(s, start), min(e, end)) for s, e in spans if s < end and e > start)


def routine_times(
    iterations: Sequence[Iteration], transactions: Sequence[Transaction], waits: LockWaits
) -> list[RoutineTime]:
    """Return where each routine's time went, the one with the most first."""
    by_routine: dict[str, list[Iteration]] = defaultdict(list)
    for iteration in iterations:
        by_routine[iteration.routine].append(iteration)
    own: dict[str | None, list[Transaction]] = defaultdict(list)
    for transaction in transactions:
        own[transaction.routine].append(transaction)
    made = [_routine(name, found, own[name], waits) for name, found in by_routine.items()]
    return sorted(made, key=lambda time: -time.wall_ns)


def _routine(
    name: str, iterations: Sequence[Iteration], transactions: Sequence[Transaction], waits: LockWaits
) -> RoutineTime:
    wall = sum(i.end - i.start - i.nested_ns for i in iterations)
    split = all(i.cpu_ns is not None for i in iterations)
    locked = sum(waits.within(t, t.start, t.end) for t in transactions)
    statements = sum(i.statement_ns for i in iterations)
    queued = sum(i.loop_ns or 0 for i in iterations)
    unread = _unread(transactions, max(0, statements - locked))
    parts = {
        "pool": exactly(sum(i.pool_ns for i in iterations)),
        "commit": exactly(sum(i.commit_ns for i in iterations)),
        "database lock": exactly(min(locked, statements)),
        "in-process lock": exactly(sum(i.lock_ns for i in iterations)),
        "other": exactly(sum(sum(i.other_ns.values()) for i in iterations)),
        "loop wait": Span(queued, queued + unread),
        "network and execution": _network(statements - min(locked, statements), unread, iterations),
    }
    known = sum(i.pool_ns + i.connect_ns + i.commit_ns + i.lock_ns + (i.loop_ns or 0) for i in iterations)
    rest = wall - known - statements - round(parts["other"].low)
    cpu = sum(i.cpu_ns or 0 for i in iterations) if split else max(0, rest)
    parts["cpu"] = exactly(cpu)
    left = max(0, rest - cpu) if split else 0
    if any(i.loop_ns is None for i in iterations):  # then what is left may be either
        parts["loop wait"] = Span(0, left)
        parts["unexplained"] = Span(0, left)
    else:
        parts["unexplained"] = exactly(left)
    return RoutineTime(
        routine=name,
        passes=len(iterations),
        wall_ns=wall,
        transactions=sum(i.transactions for i in iterations),
        categories={category: parts[category] for category in CATEGORIES},
        split=split,
        errors=dict(Counter(i.error for i in iterations if i.error is not None)),
    )


def _network(outside_locks: int, unread: int, iterations: Sequence[Iteration]) -> Span:
    connecting = sum(i.connect_ns for i in iterations)
    return Span(max(0, outside_locks - unread) + connecting, outside_locks + connecting)


def _unread(transactions: Sequence[Transaction], limit: int) -> int:
    """Return how long answers may have lain in the socket while the loop was busy with others: a bound.

    What was ready to run and waited for its turn is known and not in it.
    """
    runs = [run for t in transactions for run in t.statements]
    return min(limit, sum(max(0, (run.busy_ns or 0) - (run.late_ns or 0)) for run in runs))


def hold_times(transactions: Iterable[Transaction], waits: LockWaits) -> list[HoldTime]:
    """Return how long each routine's transactions held locks, and what filled that time."""
    by_routine: dict[str, list[Transaction]] = defaultdict(list)
    for transaction in transactions:
        if transaction.lock_by is not None:
            by_routine[transaction.routine or "(unattributed)"].append(transaction)
    made = [_hold(name, found, waits) for name, found in by_routine.items()]
    return sorted(made, key=lambda hold: -hold.total_ns)


def hold_ns(transaction: Transaction) -> int:
    """Return how long *transaction* certainly held a lock: from the end of the statement that took it."""
    return 0 if transaction.lock_by is None else transaction.end - transaction.lock_by


def _hold(name: str, transactions: Sequence[Transaction], waits: LockWaits) -> HoldTime:
    lengths = [float(hold_ns(t)) for t in transactions]
    commit = float(sum(t.commit_ns for t in transactions))
    locked = float(sum(waits.within(t, t.lock_by or t.start, t.end) for t in transactions))
    executing = float(sum(_waited_ns(run) for t in transactions for run in _after_lock(t)))
    busy = [t.hold_busy_ns for t in transactions if t.hold_busy_ns is not None]
    late = sum(run.late_ns or 0 for t in transactions for run in _after_lock(t))
    cpu = [t.hold_cpu_ns for t in transactions if t.hold_cpu_ns is not None]
    return HoldTime(
        routine=name,
        transactions=len(transactions),
        median_ns=median(lengths),
        p95_ns=percentile(lengths, 0.95),
        total_ns=sum(lengths),
        executing_ns=max(0.0, executing - locked),
        lock_wait_ns=locked,
        commit_ns=commit,
        gaps_ns=max(0.0, sum(lengths) - executing - commit),
        own_cpu_ns=float(sum(cpu)) if cpu else None,
        loop=Span(min(late, sum(busy)), sum(busy)) if busy else None,
    )


def _waited_ns(run: StatementRun) -> int:
    return run.ns - (run.cpu_ns or 0) - (run.late_ns or 0)


def _after_lock(transaction: Transaction) -> list[StatementRun]:
    since = transaction.lock_by or transaction.start
    return [run for run in transaction.statements if run.start >= since]


def total_by_table(waits: Iterable[Wait]) -> Mapping[str, int]:
    """Return lock-wait time by table, longest first."""
    totals: Counter[str] = Counter()
    for wait in waits:
        if wait.what in DATABASE:
            totals[wait.object.relation or wait.what] += wait.t_end - wait.t_start
    return dict(totals.most_common())
