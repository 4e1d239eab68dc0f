"""The records of a trace: one kind per class, one JSON object per line.

Times are nanoseconds of the machine's monotonic clock, which all processes of a machine share; a header ties
it to the wall clock. Statements are named by the hash of their text; the text is written once per file.
Parameters are never recorded.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA = "async-scheduler-trace"
VERSION = 1

Exactness = Literal["exact", "start-exact", "sampled", "bound"]
"""How far a duration can be trusted: both ends known; its start known and its end up to one period late;
both ends up to one period off; or only a limit."""

WaitKind = Literal[
    "db_row",
    "db_relation",
    "db_advisory",
    "sqlite_busy",
    "pool",
    "asyncio_lock",
    "skip",
    "nowait_fail",
    "lock_timeout",
    "deadlock",
    "serialization",
]
Outcome = Literal["commit", "rollback", "error", "acquired", "failed", "cancelled", "unfinished"]


class Header(msgspec.Struct, tag="header", tag_field="kind", frozen=True, kw_only=True):
    """The first line of every file: what wrote it, and the two clocks read at the same moment."""

    schema: str = SCHEMA
    version: int = VERSION
    process: str
    host: str
    pid: int
    level: str
    wall_ns: int
    monotonic_ns: int
    part: int = 1
    labels: dict[str, str] = {}


class StatementText(msgspec.Struct, tag="statement", tag_field="kind", frozen=True):
    """The text behind a statement's hash, with literals masked; ``locks``: it takes row or advisory locks."""

    hash: str
    text: str
    locks: bool


class StatementRun(msgspec.Struct, array_like=True, frozen=True):
    """One execution: when it began, how long the caller waited, what came back.

    ``rows`` is −1 where the driver does not say. ``cpu_ns`` is the caller's CPU within ``ns`` (None: not
    measured). ``late_ns`` is how long its answer certainly lay unread while the loop was busy, ``busy_ns``
    how long the loop was busy with others meanwhile: the time lost to the loop lies between the two.
    """

    hash: str
    start: int
    ns: int
    rows: int = -1
    wanted: int | None = None
    sqlstate: str | None = None
    cpu_ns: int | None = None
    late_ns: int | None = None
    busy_ns: int | None = None


class Transaction(msgspec.Struct, tag="transaction", tag_field="kind", frozen=True, kw_only=True):
    """One transaction of this process, from its first statement to the end of its commit or rollback.

    ``pool_ns`` is how long the pool let it wait for its connection, before ``start``. ``lock_from`` and
    ``lock_by`` are the start and end of the first statement that took a lock: the lock was
    got in between. ``hold_cpu_ns`` and ``hold_busy_ns``: CPU of the owner, and of others on the same loop,
    from ``lock_by`` to the end. ``omitted`` statements beyond the cap are in ``omitted_ns`` only.
    """

    number: int
    routine: str | None
    iteration: int
    activity: int
    pid: int
    start: int
    end: int
    outcome: Outcome
    commit_ns: int
    pool_ns: int = 0
    lock_from: int | None = None
    lock_by: int | None = None
    lock_hash: str | None = None
    hold_cpu_ns: int | None = None
    hold_busy_ns: int | None = None
    statements: list[StatementRun] = []
    omitted: int = 0
    omitted_ns: int = 0


class Iteration(msgspec.Struct, tag="iteration", tag_field="kind", frozen=True, kw_only=True):
    """One pass of a routine; its sums do not overlap.

    ``cpu_ns`` is its running time, ``loop_ns`` how long it was ready to run and did not. Where steps, or
    the loop, were not timed they are None, and in part in the other sums. ``in_call_cpu_ns`` is the part of
    ``cpu_ns`` inside the measured calls.
    """

    routine: str
    iteration: int
    activity: int
    start: int
    end: int
    parent: int | None = None
    nested_ns: int = 0
    cpu_ns: int | None = None
    in_call_cpu_ns: int = 0
    loop_ns: int | None = None
    busy_ns: int | None = None
    pool_ns: int = 0
    connect_ns: int = 0
    statement_ns: int = 0
    commit_ns: int = 0
    lock_ns: int = 0
    other_ns: dict[str, int] = {}
    transactions: int = 0
    statements: int = 0
    wanted: int = 0
    claimed: int = 0
    skipped: int | None = None
    error: str | None = None


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits or holds: a routine of ours, or another process by its application name."""

    routine: str | None = None
    iteration: int | None = None
    transaction: int | None = None
    pid: int | None = None
    process: str | None = None
    statement: str | None = None
    hold_ns: int | None = None
    state: str | None = None


class LockObject(msgspec.Struct, frozen=True, kw_only=True):
    """What is waited for: a table's row, a table, an advisory key, a named lock, the pool."""

    relation: str | None = None
    key: str | None = None
    mode: str | None = None


class Wait(msgspec.Struct, tag="wait", tag_field="kind", frozen=True, kw_only=True):
    """The one record of contention, whatever its layer: who, for whom, on what, how long, how it ended.

    For ``skip`` the length is zero and ``rows`` is the number of rows passed over.
    """

    what: WaitKind
    t_start: int
    t_end: int
    exactness: Exactness
    waiter: Party
    source: str
    object: LockObject = LockObject()
    immediate_blockers: list[Party] = []
    root_blocker: Party | None = None
    outcome: Outcome = "acquired"
    rows: int = 0


class Lag(msgspec.Struct, tag="lag", tag_field="kind", frozen=True):
    """The event loop came back ``ns`` later than asked; ``busy`` is the share of time it ran callbacks since
    the last probe (None: not measured).
    """

    at: int
    ns: int
    busy: float | None = None


class Dropped(msgspec.Struct, tag="dropped", tag_field="kind", frozen=True):
    """So many records were lost since the last such line because the ring was full."""

    at: int
    count: int


class Clock(msgspec.Struct, tag="clock", tag_field="kind", frozen=True):
    """The server's wall clock minus ours, measured by one round trip of ``round_trip_ns``."""

    at: int
    offset_ns: int
    round_trip_ns: int


class Deadlock(msgspec.Struct, tag="cycle", tag_field="kind", frozen=True, kw_only=True):
    """A cycle over database locks, in-process locks and pool slots, with every party's stack."""

    at: int
    parties: list[Party]
    objects: list[LockObject]
    stacks: list[list[str]]
    victim: int | None
    age_ns: int


class Stopped(msgspec.Struct, tag="stopped", tag_field="kind", frozen=True, kw_only=True):
    """The last line: CPU and wall time of this process while it was traced, and what tracing itself cost."""

    process: str
    at: int
    wall_ns: int
    cpu_ns: int
    writer_cpu_ns: int
    records: int
    dropped: int


Event = Header | StatementText | Transaction | Iteration | Wait | Lag | Dropped | Clock | Deadlock | Stopped


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of one line of a trace."""
    return msgspec.json.schema(Event)
