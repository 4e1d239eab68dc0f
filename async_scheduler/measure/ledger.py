"""The client's ledger: which pass has which connection, in which transaction, with which statements.

It is fed by :mod:`async_scheduler.measure.wrappers`, keyed by the identity of the driver's connection while
that is checked out of the pool (nothing else can have the same identity then).
"""

from __future__ import annotations

import itertools
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import greenlet

from async_scheduler.measure import attribution, stepping
from async_scheduler.measure.events import (
    LockObject,
    Outcome,
    Party,
    StatementRun,
    Transaction,
    Wait,
)
from async_scheduler.measure.registry import Holder
from async_scheduler.measure.sqlstate import code_of, contention
from async_scheduler.measure.statements import Catalogue, Statement

if TYPE_CHECKING:
    from async_scheduler.measure.recorder import Recorder

MAX_STATEMENTS = 500
_numbers = itertools.count(attribution.FIRST_NUMBER)


class OpenTransaction:
    """A transaction under way."""

    __slots__ = (
        "activity",
        "busy_at_lock",
        "cpu_at_lock",
        "lock_by",
        "lock_from",
        "lock_hash",
        "number",
        "omitted",
        "omitted_ns",
        "runs",
        "start",
    )

    def __init__(self, activity: attribution.Activity | None, start: int) -> None:
        self.number = next(_numbers)
        self.activity = activity
        self.start = start
        self.runs: list[StatementRun] = []
        self.omitted = self.omitted_ns = 0
        self.lock_from: int | None = None
        self.lock_by: int | None = None
        self.lock_hash: str | None = None
        self.cpu_at_lock = 0
        self.busy_at_lock: int | None = None


class Checkout:
    """A connection in use: who took it, its backend's pid, its open transaction.

    ``pool_ns`` is how long the pool let its taker wait; it belongs to the first transaction.
    """

    __slots__ = ("greenlet", "holder", "pid", "pool_ns", "running", "since", "transaction")

    def __init__(self, pid: int, pool_ns: int = 0) -> None:
        self.holder = Holder.here()
        self.holder.pid = pid
        self.pid = pid
        self.pool_ns = pool_ns
        self.running: Statement | None = None
        self.greenlet: greenlet.greenlet | None = None
        self.since = 0
        self.transaction: OpenTransaction | None = None


class Took(NamedTuple):
    """What a measured call took: its length, the pass's own CPU in it, how long it was ready but not run.

    The last two are None where steps are not timed. ``net`` is the length without them.
    """

    ns: int
    cpu: int | None
    late: int | None
    net: int


class Call:
    """A measured call: when it began, and the pass's CPU and waiting for the loop until then."""

    __slots__ = ("activity", "busy", "cpu", "loop", "start")

    def __init__(self, activity: attribution.Activity | None) -> None:
        stepping.settle()
        self.activity = activity
        self.cpu, self.loop = (activity.cpu_ns, activity.loop_ns) if activity is not None else (0, 0)
        self.busy = stepping.busy_ns()
        self.start = monotonic_ns()

    def took(self) -> Took:
        """Return what the call took, ended now."""
        ns = monotonic_ns() - self.start
        activity = self.activity
        if activity is None or not activity.stepped:
            return Took(ns, None, None, ns)
        stepping.settle()
        cpu, late = activity.cpu_ns - self.cpu, activity.loop_ns - self.loop
        activity.in_call_cpu_ns += cpu
        return Took(ns, cpu, late if self.busy is not None else None, max(0, ns - cpu - late))


class Ledger:
    """The open checkouts of one process, and the records of what is finished."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._catalogue = Catalogue(lambda statement: recorder.statement(statement.record()))
        self.checkouts: dict[int, Checkout] = {}

    def find(self, text: str, context: Any | None) -> Statement:
        """Return the statement that the driver is given."""
        return self._catalogue.find(text, getattr(context, "compiled", None))

    def began(self, checkout: Checkout, statement: Statement) -> Call:
        """Note that *statement* is being sent; it opens a transaction if none is open."""
        activity = attribution.current()
        call = Call(activity)
        transaction = checkout.transaction
        if transaction is None:
            transaction = checkout.transaction = OpenTransaction(activity, call.start)
            checkout.holder.activity = activity
            checkout.holder.transaction = transaction.number
            checkout.holder.lock_since = None
        checkout.running, checkout.since = statement, call.start
        checkout.greenlet = greenlet.getcurrent()
        return call

    def returned(
        self,
        checkout: Checkout,
        statement: Statement,
        call: Call,
        rows: int,
        wanted: int | None,
        error: BaseException | None,
    ) -> None:
        """Note how the statement of *call* ended."""
        code = code_of(error) if error is not None else None
        took = call.took()
        end = call.start + took.ns
        run = _run(statement, call, took, rows, wanted, code)
        checkout.running = checkout.greenlet = None
        transaction = checkout.transaction
        if transaction is None:
            return
        if len(transaction.runs) < MAX_STATEMENTS:
            transaction.runs.append(run)
        else:
            transaction.omitted += 1
            transaction.omitted_ns += run.ns
        if call.activity is not None:
            call.activity.statement_ns += took.net
            _count(call.activity, statement, run)
        if statement.locks and transaction.lock_from is None and rows != 0 and error is None:
            self._locked(checkout, transaction, statement, call, end)
        if (kind := contention(code)) is not None:
            self.failed(checkout, statement, kind, call.start, end)

    def _locked(
        self, checkout: Checkout, transaction: OpenTransaction, statement: Statement, call: Call, end: int
    ) -> None:
        transaction.lock_from, transaction.lock_by = call.start, end
        transaction.lock_hash = checkout.holder.statement = statement.hash
        transaction.cpu_at_lock = call.activity.cpu_ns if call.activity is not None else 0
        transaction.busy_at_lock = stepping.busy_ns()
        checkout.holder.lock_since = call.start

    def failed(self, checkout: Checkout, statement: Statement, kind: Any, start: int, end: int) -> None:
        """Record a lock that was refused, or a deadlock or serialization failure."""
        self._recorder.put(
            Wait(
                what=kind,
                t_start=start,
                t_end=end,
                exactness="bound",
                waiter=_party(checkout, statement.hash),
                source="client",
                object=LockObject(),
                outcome="failed",
            )
        )

    def ended(self, checkout: Checkout, call: Call, outcome: Outcome) -> None:
        """Note that the transaction of *checkout* is over, its commit or rollback being *call*."""
        transaction = checkout.transaction
        if transaction is None:
            return
        checkout.transaction = None
        checkout.holder.lock_since = checkout.holder.statement = checkout.holder.transaction = None
        took = call.took()
        activity = transaction.activity
        if call.activity is not None:
            call.activity.commit_ns += took.net
            call.activity.transactions += 1
        end = call.start + took.ns
        self._recorder.put(_record(checkout, transaction, activity, outcome, took.ns, end))


def _run(
    statement: Statement, call: Call, took: Took, rows: int, wanted: int | None, code: str | None
) -> StatementRun:
    busy = stepping.busy_ns()
    others = None
    if busy is not None and call.busy is not None:
        others = max(took.late or 0, busy - call.busy - (took.cpu or 0))
    return StatementRun(statement.hash, call.start, took.ns, rows, wanted, code, took.cpu, took.late, others)


def _count(activity: attribution.Activity, statement: Statement, run: StatementRun) -> None:
    activity.statements += 1
    if statement.skips and statement.reads and run.rows >= 0:
        activity.claimed += run.rows
        activity.wanted += run.wanted if run.wanted is not None else run.rows


def _party(checkout: Checkout, statement: str | None) -> Party:
    transaction = checkout.transaction
    activity = transaction.activity if transaction else None
    return Party(
        routine=activity.routine if activity else None,
        iteration=activity.iteration if activity else None,
        transaction=transaction.number if transaction else None,
        pid=checkout.pid,
        statement=statement,
    )


def _record(
    checkout: Checkout,
    transaction: OpenTransaction,
    activity: attribution.Activity | None,
    outcome: Outcome,
    commit_ns: int,
    end: int,
) -> Transaction:
    held = transaction.lock_by is not None
    waited, checkout.pool_ns = checkout.pool_ns, 0
    cpu = activity.cpu_ns - transaction.cpu_at_lock if held and activity and activity.stepped else None
    busy = stepping.busy_ns()
    others = None
    if held and busy is not None and transaction.busy_at_lock is not None:
        others = max(0, busy - transaction.busy_at_lock - (cpu or 0))
    return Transaction(
        number=transaction.number,
        routine=activity.routine if activity else None,
        iteration=activity.iteration if activity else 0,
        activity=activity.number if activity else 0,
        pid=checkout.pid,
        start=transaction.start,
        end=end,
        outcome=outcome,
        commit_ns=commit_ns,
        pool_ns=waited,
        lock_from=transaction.lock_from,
        lock_by=transaction.lock_by,
        lock_hash=transaction.lock_hash,
        hold_cpu_ns=cpu,
        hold_busy_ns=others,
        statements=transaction.runs,
        omitted=transaction.omitted,
        omitted_ns=transaction.omitted_ns,
    )
