"""Who waited for whom: the conflict matrix, its victims outside of us, and the statements behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from async_scheduler.contention.report import Pair, StatementWait, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from async_scheduler.measure.events import Party, StatementText, Wait

DATABASE = frozenset({"db_row", "db_relation", "db_advisory", "sqlite_busy"})
IN_PROCESS = frozenset({"pool", "asyncio_lock"})
REFUSED = frozenset({"nowait_fail", "lock_timeout"})

OUTSIDE = "another client"
POOL_HOLDERS = "holders of the pool"


def label(party: Party | None) -> str:
    """Return the name under which a party stands in the matrix."""
    if party is None:
        return OUTSIDE
    return party.routine or party.process or OUTSIDE


def holder_label(wait: Wait) -> str:
    """Return who is to blame for *wait*; a slot of the pool was kept by all its holders together."""
    if wait.what == "pool" and len(wait.immediate_blockers) > 1:
        names = {label(party) for party in wait.immediate_blockers}
        return names.pop() if len(names) == 1 else POOL_HOLDERS
    return label(wait.root_blocker)


def pairs(waits: Iterable[Wait]) -> list[Pair]:
    """Return the matrix, longest total first. Waits of one blocked statement count once."""
    cells: dict[tuple[str, str, str], list[Wait]] = defaultdict(list)
    for wait in waits:
        if wait.what in DATABASE or wait.what in IN_PROCESS:
            cells[label(wait.waiter), holder_label(wait), layer(wait)].append(wait)
    made = [_pair(key, found) for key, found in cells.items()]
    return sorted(made, key=lambda pair: -pair.total_ns)


def layer(wait: Wait) -> str:
    """Return where the lock lives: database, pool or process."""
    if wait.what in DATABASE:
        return "database"
    return "pool" if wait.what == "pool" else "process"


def _pair(key: tuple[str, str, str], waits: Sequence[Wait]) -> Pair:
    blocked: dict[object, float] = defaultdict(float)
    tables: Counter[str] = Counter()
    for wait in waits:
        length = wait.t_end - wait.t_start
        blocked[statement_of(wait)] += length
        tables[wait.object.relation or wait.object.key or wait.what] += length
    lengths = list(blocked.values())
    return Pair(
        waiter=key[0],
        holder=key[1],
        layer=key[2],
        count=len(lengths),
        total_ns=sum(lengths),
        p95_ns=percentile(lengths, 0.95),
        max_ns=max(lengths),
        tables=dict(tables.most_common()),
    )


def statement_of(wait: Wait) -> object:
    """Return what one blocked statement is: several waits of a transaction's same statement are one."""
    waiter = wait.waiter
    if waiter.transaction is None or wait.what in IN_PROCESS:
        return id(wait)
    return waiter.transaction, waiter.statement, wait.object.relation


def victims(waits: Iterable[Wait], ours: frozenset[int]) -> list[Pair]:
    """Return the waits of processes that are not ours, for locks at whose root we stand."""
    return pairs(
        wait
        for wait in waits
        if wait.waiter.pid not in ours and wait.root_blocker is not None and wait.root_blocker.pid in ours
    )


def top_statements(
    waits: Iterable[Wait], texts: Mapping[str, StatementText], *, limit: int = 20
) -> list[StatementWait]:
    """Return the statements that waited longest, with the statement that held most of it."""
    by_statement: dict[str, list[Wait]] = defaultdict(list)
    for wait in waits:
        if wait.what in DATABASE:
            by_statement[wait.waiter.statement or ""].append(wait)
    made = [_statement(hash_, found, texts) for hash_, found in by_statement.items()]
    return sorted(made, key=lambda s: -s.total_ns)[:limit]


def _statement(hash_: str, waits: Sequence[Wait], texts: Mapping[str, StatementText]) -> StatementWait:
    held: Counter[tuple[str, str | None]] = Counter()
    tables: Counter[str | None] = Counter()
    for wait in waits:
        length = wait.t_end - wait.t_start
        root = wait.root_blocker
        held[label(root), root.statement if root else None] += length
        tables[wait.object.relation] += length
    (holder, holding), _ = held.most_common(1)[0]
    return StatementWait(
        statement=_text(hash_, texts),
        count=len({statement_of(wait) for wait in waits}),
        total_ns=float(sum(w.t_end - w.t_start for w in waits)),
        waiters=sorted({label(wait.waiter) for wait in waits}),
        table=tables.most_common(1)[0][0],
        held_by=None if holding is None else _text(holding, texts),
        holder=holder,
    )


def _text(hash_: str, texts: Mapping[str, StatementText]) -> str:
    known = texts.get(hash_)
    return known.text if known is not None else "(statement unknown)"
