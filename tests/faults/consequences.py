"""What must hold of what schedulers leave behind: audit rows, callbacks, runs for asset events. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from poc_bench.database.rows import RunRow
    from tests.faults.audit import Change

_Counted = Counter[tuple[str, int | None]]
KILLED_BY_SCHEDULER = "state mismatch"
"""The audit row of a task instance that its executor has lost (``process_executor_events``)."""
REPEATED = frozenset({"stuck in queued reschedule"})
"""Audit rows of which one task instance may have several for one try."""


class LogRow(NamedTuple):
    """A row of ``log`` that belongs to a task instance: ``row_key`` as in :class:`Change`."""

    event: str
    row_key: str
    try_number: int | None


class CallbackRow(NamedTuple):
    """A row of ``callback``: of a run, or of one try of a task instance."""

    kind: str
    row_key: str
    try_number: int | None
    failure: bool


class EventRow(NamedTuple):
    """An asset event, and one run that consumed it (None: nobody did)."""

    id: int
    timestamp: datetime
    source_run: str
    consumed_by: str | None


@dataclass(frozen=True, slots=True)
class Consequences:
    """What was found in the end.

    ``called`` – dags with callbacks, ``called_tasks`` – (dag, task) with callbacks; ``producer`` – the dag
    that makes asset events, ``windows`` – the runs that they start, with the end of the time whose events
    each consumes; ``queued`` – rows left in the queue.
    """

    called: frozenset[str] = frozenset()
    called_tasks: frozenset[tuple[str, str]] = frozenset()
    producer: str = ""
    logs: Sequence[LogRow] = ()
    callbacks: Sequence[CallbackRow] = ()
    events: Sequence[EventRow] = ()
    windows: Sequence[tuple[str, datetime]] = ()
    queued: int = 0


def violations(left: Consequences, changes: Sequence[Change], runs: Sequence[RunRow]) -> Iterator[str]:
    """Yield what was lost or doubled."""
    yield from _audit_rows(left, changes)
    yield from _task_callbacks(left, changes)
    yield from _run_callbacks(left, runs)
    yield from _queue(left, changes)
    yield from _events(left, runs)


def _failed_by_schedulers(changes: Sequence[Change]) -> _Counted:
    """Count, by task instance and try, the ends that schedulers and not workers have written."""
    return Counter(
        (change.row_key, change.try_number)
        for change in changes
        if change.kind == "ti"
        and not change.who.startswith("bench-")
        and change.was in ("queued", "running")
        and change.became in ("failed", "up_for_retry")
    )


def _audit_rows(left: Consequences, changes: Sequence[Change]) -> Iterator[str]:
    for row, count in Counter(left.logs).items():
        if count > 1 and row.event not in REPEATED:
            yield f"audit row doubled: {count} × {row.event!r} of {row.row_key}, try {row.try_number}"
    expected = _failed_by_schedulers(changes)
    for event in (KILLED_BY_SCHEDULER, "failed"):
        found = Counter((row.row_key, row.try_number) for row in left.logs if row.event == event)
        for key in expected:
            if not found[key]:
                yield f"audit row lost: {event!r} of {key[0]}, try {key[1]}"
        if event == KILLED_BY_SCHEDULER:
            for key in found.keys() - expected.keys():
                yield f"audit row without a change: {event!r} of {key[0]}, try {key[1]}"


def _task_callbacks(left: Consequences, changes: Sequence[Change]) -> Iterator[str]:
    expected = Counter(
        {key: count for key, count in _failed_by_schedulers(changes).items() if _has(left, key[0])}
    )
    found = Counter((row.row_key, row.try_number) for row in left.callbacks if row.kind == "task")
    yield from _compared("callback of a task", expected, found)


def _has(left: Consequences, row_key: str) -> bool:
    dag_id, _, task_id, _ = row_key.split("/")
    return (dag_id, task_id) in left.called_tasks


def _run_callbacks(left: Consequences, runs: Sequence[RunRow]) -> Iterator[str]:
    expected: _Counted = Counter(
        (f"{run.dag_id}/{run.run_id}", run.state == "failed")
        for run in runs
        if run.dag_id in left.called and run.state in ("success", "failed")
    )
    found: _Counted = Counter((row.row_key, row.failure) for row in left.callbacks if row.kind == "run")
    yield from _compared("callback of a run", expected, found)


def _compared(what: str, expected: _Counted, found: _Counted) -> Iterator[str]:
    for key in sorted(expected.keys() | found.keys(), key=str):
        if found[key] < expected[key]:
            yield f"{what} lost: {key[0]}, {key[1]}: {found[key]} of {expected[key]}"
        if found[key] > expected[key]:
            yield f"{what} doubled: {key[0]}, {key[1]}: {found[key]} instead of {expected[key]}"


def _queue(left: Consequences, changes: Sequence[Change]) -> Iterator[str]:
    """Each asset put into a dag's queue is taken out once, by one new run."""
    if left.queued:
        yield f"asset queue: {left.queued} rows are left"
    put = sum(change.kind == "queue" and change.became is not None for change in changes)
    if len(left.windows) != put:
        yield f"asset queue: {put} times a run was asked for, {len(left.windows)} were created"


def _events(left: Consequences, runs: Sequence[RunRow]) -> Iterator[str]:
    made = Counter(event.source_run for event in {one.id: one for one in left.events}.values())
    for run in runs:
        if run.dag_id == left.producer and run.state == "success" and made[run.run_id] != 1:
            yield f"asset event: {made[run.run_id]} were made by {run.run_id}"
    ends = sorted((end, run) for run, end in left.windows)
    consumed: dict[int, list[str | None]] = {}
    for one in left.events:
        consumed.setdefault(one.id, []).append(one.consumed_by)
    for event in {one.id: one for one in left.events}.values():
        # Airflow's rule: a run consumes what happened after the run before it and not after it was asked for.
        due = next((run for end, run in ends if event.timestamp <= end), None)
        if consumed[event.id] != [due]:
            took = ", ".join(map(str, consumed[event.id]))
            yield f"asset event {event.id} of {event.source_run} was consumed by {took}, due by {due}"
