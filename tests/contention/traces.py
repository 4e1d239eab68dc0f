"""Made-up traces, written by the real writer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from async_scheduler.measure.events import (
    Deadlock,
    Event,
    Header,
    Iteration,
    Lag,
    LockObject,
    Party,
    StatementRun,
    StatementText,
    Transaction,
    Wait,
)
from async_scheduler.measure.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000
SECOND = 1_000 * MS

UPDATE = StatementText("update", "UPDATE dag_run SET state = $1 WHERE id IN (…)", True)
SELECT = StatementText("select", "SELECT id FROM dag_run LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED", True)


def write_trace(directory: Path, *records: Event, process: str = "scheduler") -> Path:
    """Write *records* as a trace and return its folder."""
    writer = Writer(
        directory,
        process,
        lambda part: Header(
            process=process,
            host=socket.gethostname(),
            pid=1,
            level="ledger",
            wall_ns=1_000 * SECOND,
            monotonic_ns=0,
            part=part,
        ),
    )
    for record in records:
        writer.put(record)
    writer.close()
    return directory


def iteration(
    routine: str, start: int, end: int, *, activity: int = 1, statement_ns: int = 0, pool_ns: int = 0
) -> Iteration:
    """Return a pass from *start* to *end* (ms) with a commit of 1 ms."""
    return Iteration(
        routine=routine,
        iteration=0,
        activity=activity,
        start=start * MS,
        end=end * MS,
        statement_ns=statement_ns,
        pool_ns=pool_ns,
        commit_ns=MS,
        transactions=1,
    )


def transaction(
    routine: str | None, start: int, end: int, *, number: int, pid: int, activity: int = 1, lock_ms: int = 1
) -> Transaction:
    """Return a transaction (ms) that took its lock by a statement of *lock_ms* at its start."""
    return Transaction(
        number=number,
        routine=routine,
        iteration=0,
        activity=activity,
        pid=pid,
        start=start * MS,
        end=end * MS,
        outcome="commit",
        commit_ns=MS,
        lock_from=start * MS,
        lock_by=(start + lock_ms) * MS,
        lock_hash="update",
        statements=[StatementRun("update", start * MS, lock_ms * MS, 1)],
    )


def row_wait(waiter: Party, holder: Party | None, start: int, end: int, *, table: str = "dag_run") -> Wait:
    """Return a wait for a row (ms), as the sampler sees it."""
    return Wait(
        what="db_row",
        t_start=start * MS,
        t_end=end * MS,
        exactness="start-exact",
        waiter=waiter,
        source="sampler",
        object=LockObject(relation=table, mode="ShareLock"),
        immediate_blockers=[holder] if holder else [],
        root_blocker=holder,
    )


def two_routines(hostile: str = "start") -> list[Event]:
    """Return a second in which *hostile* waits 40 ms for ``schedule``, and another process 20 ms."""
    return [
        UPDATE,
        SELECT,
        iteration("schedule", 0, 100, activity=1, statement_ns=80 * MS),
        iteration(hostile, 0, 110, activity=2, statement_ns=90 * MS, pool_ns=10 * MS),
        transaction("schedule", 0, 60, number=1, pid=11, activity=1),
        transaction(hostile, 20, 100, number=2, pid=12, activity=2, lock_ms=41),
        row_wait(Party(pid=12), Party(pid=11), 20, 60),
        row_wait(Party(pid=99, process="API server"), Party(pid=11), 40, 60, table="task_instance"),
        Wait(
            what="nowait_fail",
            t_start=5 * MS,
            t_end=6 * MS,
            exactness="bound",
            waiter=Party(routine=hostile, pid=12),
            source="client",
            outcome="failed",
        ),
        Deadlock(
            at=70 * MS,
            parties=[Party(routine="schedule"), Party(routine=hostile)],
            objects=[LockObject(key="turn"), LockObject(key="connection pool")],
            stacks=[["a.py:1 f"], ["b.py:2 g"]],
            victim=1,
            age_ns=MS,
        ),
        Lag(50 * MS, 3 * MS),
    ]
