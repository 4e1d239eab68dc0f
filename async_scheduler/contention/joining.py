"""Joins the lock waits that the database saw with the client's ledger: backend and time say whose they are.

The database knows who waits for whom, by backend. The ledger knows which routine had which backend when,
and which statement of a transaction took its lock: the holder's *current* statement usually is another.
Those who wait behind other waiters are resolved to the root, who waits for nobody.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from async_scheduler.contention.tables import main_table
from async_scheduler.measure.events import (
    Exactness,
    LockObject,
    Outcome,
    Party,
    StatementRun,
    StatementText,
    Transaction,
    Wait,
)
from async_scheduler.measure.statements import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from async_scheduler.contention.postgres_log import ServerLog

SLACK_NS = 3_000_000
"""How far the server's and the client's clocks may seem apart: the log's millisecond and a round trip."""
LOGGED_WITHIN_NS, SAMPLED_WITHIN_NS = 2_000_000, 10_000_000
"""How long after its start a wait's blockers are looked at: ``deadlock_timeout``, a period of the sampler."""

_ENDINGS: Mapping[str, Outcome] = {
    "acquired": "acquired",
    "failed": "failed",
    "deadlock": "failed",
    "unfinished": "unfinished",
}


class LedgerIndex:
    """Finds the transaction that a backend was in at a time."""

    def __init__(self, transactions: Iterable[Transaction]) -> None:
        by_pid: dict[int, list[Transaction]] = defaultdict(list)
        for transaction in transactions:
            by_pid[transaction.pid].append(transaction)
        self._by_pid = {pid: sorted(found, key=lambda t: t.start) for pid, found in by_pid.items()}
        self._starts = {pid: [t.start for t in found] for pid, found in self._by_pid.items()}

    def __contains__(self, pid: int) -> bool:
        return pid in self._by_pid

    def find(self, pid: int, start: int, end: int) -> Transaction | None:
        """Return the transaction of *pid* that overlaps [start, end] most, within the clocks' slack."""
        found = self._by_pid.get(pid)
        if found is None:
            return None
        after = bisect_right(self._starts[pid], end + SLACK_NS)
        best, most = None, -SLACK_NS
        for transaction in reversed(found[max(0, after - 64) : after]):
            shared = min(transaction.end, end) - max(transaction.start, start)
            if shared > most:
                best, most = transaction, shared
            if transaction.end < start - SLACK_NS:
                break
        return best


class Joiner:
    """Turns sightings of backends into waits of routines."""

    def __init__(
        self,
        transactions: Iterable[Transaction],
        statements: dict[str, StatementText],
        applications: Mapping[int, str],
    ) -> None:
        self._ledger = LedgerIndex(transactions)
        self._statements = statements
        self._applications = applications

    def join(self, waits: Sequence[Wait]) -> list[Wait]:
        """Return *waits* with routine, transaction and statement of every party, and the root of each."""
        by_waiter: dict[int, list[Wait]] = defaultdict(list)
        for wait in waits:
            if wait.waiter.pid is not None:
                by_waiter[wait.waiter.pid].append(wait)
        return [self._joined(wait, by_waiter) for wait in waits]

    def _joined(self, wait: Wait, by_waiter: Mapping[int, list[Wait]]) -> Wait:
        relation = wait.object.relation
        root = _root(wait, by_waiter) or wait.root_blocker
        return msgspec.structs.replace(
            wait,
            waiter=self._waiter(wait),
            immediate_blockers=[self._holder(p, wait, relation) for p in wait.immediate_blockers],
            root_blocker=None if root is None else self._holder(root, wait, relation),
        )

    def _waiter(self, wait: Wait) -> Party:
        party, pid = wait.waiter, wait.waiter.pid
        transaction = None if pid is None else self._ledger.find(pid, wait.t_start, wait.t_end)
        if transaction is None:
            return self._named(party)
        run = run_at(transaction, wait.t_start, wait.t_end)
        return msgspec.structs.replace(
            _ours(party, transaction), statement=run.hash if run is not None else party.statement
        )

    def _holder(self, party: Party, wait: Wait, relation: str | None) -> Party:
        if party.pid is None:
            return self._named(party)
        # A connection may serve another routine before the wait is over: it is the one seen first that held.
        seen = wait.t_start + (SAMPLED_WITHIN_NS if wait.source == "sampler" else LOGGED_WITHIN_NS)
        transaction = self._ledger.find(party.pid, wait.t_start, min(wait.t_end, seen))
        if transaction is None:
            return self._named(party)
        taker = self._taker(transaction, relation, wait.t_start)
        since = taker.start if taker is not None else transaction.lock_from or transaction.start
        return msgspec.structs.replace(
            _ours(party, transaction),
            statement=taker.hash if taker is not None else transaction.lock_hash,
            hold_ns=max(0, wait.t_start - since),
            state=party.state or _state_at(transaction, wait.t_start),
        )

    def _taker(self, transaction: Transaction, relation: str | None, at: int) -> StatementRun | None:
        """Return the statement that took the lock: the first that locks rows of the table before the wait."""
        before = [run for run in transaction.statements if run.start <= at + SLACK_NS]
        locking = [run for run in before if self._locks(run.hash)]
        for run in locking:
            if relation is not None and main_table(self._statements[run.hash].text) == relation:
                return run
        return locking[0] if locking else None

    def _locks(self, hash_: str) -> bool:
        text = self._statements.get(hash_)
        return text is not None and text.locks

    def _named(self, party: Party) -> Party:
        if party.process or party.pid is None:
            return party
        return msgspec.structs.replace(party, process=self._applications.get(party.pid))


def _ours(party: Party, transaction: Transaction) -> Party:
    return msgspec.structs.replace(
        party,
        routine=transaction.routine,
        iteration=transaction.iteration,
        transaction=transaction.number,
    )


def _state_at(transaction: Transaction, at: int) -> str:
    if transaction.end - transaction.commit_ns <= at:
        return "committing"
    return "active" if run_at(transaction, at, at) is not None else "idle in transaction"


def run_at(transaction: Transaction, start: int, end: int) -> StatementRun | None:
    """Return the statement of *transaction* that overlaps [start, end] most."""
    best, most = None, -SLACK_NS
    for run in transaction.statements:
        shared = min(run.start + run.ns, end) - max(run.start, start)
        if shared > most:
            best, most = run, shared
    return best


def _root(wait: Wait, by_waiter: Mapping[int, list[Wait]]) -> Party | None:
    """Follow the chain from *wait* to a blocker that was not waiting itself when the wait began."""
    seen: set[int] = set()
    at = wait.t_start
    blockers = wait.immediate_blockers
    while blockers:
        for blocker in blockers:
            if blocker.pid is None or _waiting(by_waiter.get(blocker.pid, ()), at) is None:
                return blocker
        first = blockers[0]
        if first.pid is None or first.pid in seen:
            return None
        seen.add(first.pid)
        ahead = _waiting(by_waiter[first.pid], at)
        blockers = ahead.immediate_blockers if ahead is not None else []
    return None


def _waiting(waits: Iterable[Wait], at: int) -> Wait | None:
    """Return the wait under way at *at*: begun by then, or so soon after that the clocks cannot tell."""
    for wait in waits:
        if wait.t_start <= at + SLACK_NS and wait.t_end > at + SLACK_NS:
            return wait
    return None


def logged_waits(log: ServerLog, wall_offset_ns: int, statements: dict[str, StatementText]) -> list[Wait]:
    """Return the waits of a server's log as records on our clock; their statements are added to *statements*.

    :param wall_offset_ns: the server's wall clock minus our monotonic clock.
    """
    found = []
    for logged in log.waits:
        text = describe(logged.statement)
        statements.setdefault(text.hash, text.record())
        exactness: Exactness = "exact" if logged.ending != "unfinished" else "bound"
        found.append(
            Wait(
                what=logged.kind,
                t_start=logged.start - wall_offset_ns,
                t_end=logged.end - wall_offset_ns,
                exactness=exactness,
                waiter=Party(pid=logged.pid, process=logged.application or None, statement=text.hash),
                source="server log",
                object=LockObject(
                    relation=logged.relation,
                    key=logged.object if logged.kind == "db_advisory" else None,
                    mode=logged.mode,
                ),
                immediate_blockers=[Party(pid=pid) for pid in logged.holders],
                outcome=_ENDINGS[logged.ending],
            )
        )
    return found


def sqlite_waits(transactions: Iterable[Transaction]) -> list[Wait]:
    """Return, as limits, how long each transaction may have waited for SQLite's one write lock.

    SQLite tells nobody who waits. What is known is how long the first statement that writes took (a busy
    handler sleeps inside it), and which transaction of ours was writing meanwhile.
    """
    writers = sorted((t for t in transactions if t.lock_from is not None), key=lambda t: t.lock_by or 0)
    found = []
    for waiting in writers:
        start, end = waiting.lock_from or waiting.start, waiting.lock_by or waiting.end
        ahead = [t for t in writers if t is not waiting and (t.lock_by or 0) <= end and t.end > start]
        if not ahead:
            continue
        holder = max(ahead, key=lambda t: min(t.end, end) - max(t.lock_by or 0, start))
        found.append(
            Wait(
                what="sqlite_busy",
                t_start=start,
                t_end=min(end, max(start, holder.end)),
                exactness="bound",
                waiter=_ours(Party(statement=waiting.lock_hash), waiting),
                source="client",
                object=LockObject(key="the database's write lock"),
                root_blocker=_ours(Party(statement=holder.lock_hash), holder),
            )
        )
    return found
