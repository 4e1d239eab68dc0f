"""The skip census: how many rows ``SKIP LOCKED`` passed over, exactly, from PostgreSQL's ``auto_explain``.

In the plan of a locking read the ``LockRows`` node gets rows from below and gives back those it could lock.
What goes in and does not come out was locked by somebody else (or changed since). It costs the server about
half its CPU again, so a census is a run of its own: its times mean nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from async_scheduler.contention.postgres_log import json_records, wall_ns
from async_scheduler.contention.tables import main_table
from async_scheduler.measure.events import LockObject, Party, Wait
from async_scheduler.measure.statements import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from async_scheduler.contention.joining import LedgerIndex
    from async_scheduler.measure.events import StatementText

SETTINGS: Mapping[str, str] = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_nested_statements": "on",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_timezone": "UTC",
    "log_rotation_size": "0",
}
"""What a server of one's own needs for a census. Needs the ``auto_explain`` library, which full PostgreSQL
installations have and the embedded one has not.
"""


@dataclass(frozen=True, slots=True)
class LockedRead:
    """One execution of a statement that locks rows: rows seen by ``LockRows`` and rows it locked."""

    pid: int
    at: int
    statement: str
    seen: int
    locked: int
    application: str = ""

    @property
    def skipped(self) -> int:
        """Return how many rows were passed over."""
        return max(0, self.seen - self.locked)


def locked_reads(paths: Iterable[Path], *, database: str | None = None) -> list[LockedRead]:
    """Return every execution in the logs whose plan locks rows; times on the server's wall clock."""
    found = []
    for path in paths:
        for record in json_records(path, database=database):
            message = str(record.get("message", ""))
            if message.startswith("duration:") and "plan:" in message and "LockRows" in message:
                read = _read(record, message.partition("plan:")[2])
                if read is not None:
                    found.append(read)
    return found


def _read(record: Mapping[str, Any], text: str) -> LockedRead | None:
    try:
        plan = json.loads(text)
    except json.JSONDecodeError:
        return None
    seen = locked = 0
    for node in _nodes(plan["Plan"]):
        if node.get("Node Type") == "LockRows":
            locked += _rows(node)
            # the other children are CTEs and subqueries, which are no candidates for a lock
            seen += sum(_rows(c) for c in node.get("Plans", ()) if c.get("Parent Relationship") == "Outer")
    query = describe(str(plan.get("Query Text", "")))
    return LockedRead(
        int(record["pid"]),
        wall_ns(record["timestamp"]),
        query.text,
        seen,
        locked,
        str(record.get("application_name") or ""),
    )


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _rows(node: Mapping[str, Any]) -> int:
    return round(float(node.get("Actual Rows", 0)) * float(node.get("Actual Loops", 1)))


def skip_events(
    reads: Iterable[LockedRead], ledger: LedgerIndex, wall_offset_ns: int, texts: dict[str, StatementText]
) -> list[Wait]:
    """Return a record of each read that passed rows over; the texts of their statements go to *texts*."""
    found = []
    for read in reads:
        if not read.skipped or "SKIP LOCKED" not in read.statement.upper():
            continue
        at = read.at - wall_offset_ns
        text, transaction = describe(read.statement), ledger.find(read.pid, at, at)
        texts.setdefault(text.hash, text.record())
        found.append(
            Wait(
                what="skip",
                t_start=at,
                t_end=at,
                exactness="exact",
                waiter=Party(
                    pid=read.pid,
                    process=read.application or None,
                    statement=text.hash,
                    routine=transaction.routine if transaction else None,
                    transaction=transaction.number if transaction else None,
                ),
                source="auto_explain",
                object=LockObject(relation=main_table(read.statement)),
                rows=read.skipped,
            )
        )
    return found


def skipped_by_routine(
    reads: Iterable[LockedRead], ledger: LedgerIndex, wall_offset_ns: int
) -> dict[str, tuple[int, int]]:
    """Return (rows seen, rows skipped) by routine, and those of other processes by application name."""
    sums: dict[str, tuple[int, int]] = {}
    for read in reads:
        if "SKIP LOCKED" not in read.statement.upper():
            continue
        at = read.at - wall_offset_ns
        transaction = ledger.find(read.pid, at, at)
        name = transaction.routine if transaction is not None else None
        if name is not None or read.application:
            seen, skipped = sums.get(name or read.application, (0, 0))
            sums[name or read.application] = (seen + read.seen, skipped + read.skipped)
    return sums
