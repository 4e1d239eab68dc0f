"""What one trace says, as plain data: the terminal, the page and the JSON export all show this."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = "async-scheduler-contention"
VERSION = 1

CATEGORIES = (
    "cpu",
    "loop wait",
    "pool",
    "network and execution",
    "commit",
    "database lock",
    "in-process lock",
    "other",
    "unexplained",
)
"""What a routine's wall time is made of, in the order in which it is shown."""


class Span(msgspec.Struct, frozen=True):
    """A figure that is only known to lie between two values (nanoseconds); equal ones: it is known."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    @property
    def middle(self) -> float:
        """Return the middle of the two."""
        return (self.low + self.high) / 2


def exactly(value: float) -> Span:
    """Return a figure that is known."""
    return Span(value, value)


class RoutineTime(msgspec.Struct, kw_only=True):
    """Where a routine's wall time went. ``split`` is False where CPU and the wait for the loop were not told
    apart (level ``ledger``): then both are in ``cpu``, and ``unexplained`` is not known.
    """

    routine: str
    passes: int
    wall_ns: int
    transactions: int
    categories: dict[str, Span]
    split: bool
    errors: dict[str, int]


class HoldTime(msgspec.Struct, kw_only=True):
    """How long a routine's transactions kept their locks, and what happened meanwhile; sums in nanoseconds.

    ``loop`` is how long the loop was busy with others during the holds: more than zero means that lag of
    the loop became lock time. None: not measured.
    """

    routine: str
    transactions: int
    median_ns: float
    p95_ns: float
    total_ns: float
    executing_ns: float
    lock_wait_ns: float
    commit_ns: float
    gaps_ns: float
    own_cpu_ns: float | None
    loop: Span | None


class Pair(msgspec.Struct, kw_only=True):
    """A cell of the conflict matrix: how often, and how long, one party waited for another."""

    waiter: str
    holder: str
    layer: str
    count: int
    total_ns: float
    p95_ns: float
    max_ns: float
    tables: dict[str, float]


class SkipCount(msgspec.Struct, kw_only=True):
    """Rows asked for, got and passed over, and locks refused. ``skipped`` is None without a census.

    ``ours`` is False for another process, of which the census alone knows.
    """

    routine: str
    passes: int
    wanted: int
    claimed: int
    skipped: int | None
    refused: int
    ours: bool = True


class StatementWait(msgspec.Struct, kw_only=True):
    """A statement that waited for locks, and the one that held them most."""

    statement: str
    count: int
    total_ns: float
    waiters: list[str]
    table: str | None
    held_by: str | None
    holder: str


class Failure(msgspec.Struct, kw_only=True):
    """A deadlock: each party with its statement, or its stack where no database saw it."""

    at_s: float
    source: str
    victim: str | None
    parties: list[str]
    details: list[str]


class Quality(msgspec.Struct, kw_only=True):
    """How far the figures can be trusted."""

    source: str = "none"
    waits: int = 0
    attributed: int = 0
    unexplained: float | None = None
    transactions: int = 0
    transactions_attributed: int = 0
    sampler_ns: float | None = None
    log_ns: float | None = None
    dropped: int = 0
    clock_offset_ns: int | None = None
    truncated: int = 0
    client_cpu_ns: int | None = None
    writer_cpu_ns: int | None = None
    sampler_cpu_share: float | None = None
    sampler_backend_cpu_share: float | None = None
    overhead: tuple[float, float, float] | None = None
    level: str = "none"

    @property
    def attributed_share(self) -> float | None:
        """Return the share of waits whose both sides have a name."""
        return self.attributed / self.waits if self.waits else None

    @property
    def sampler_total(self) -> float | None:
        """Return what the sampler cost, its backend with it where that is known, as a share of a core."""
        if self.sampler_cpu_share is None:
            return None
        return self.sampler_cpu_share + (self.sampler_backend_cpu_share or 0.0)

    @property
    def sampler_share(self) -> float | None:
        """Return the sampler's total of lock waits as a share of the log's."""
        if self.sampler_ns is None or not self.log_ns:
            return None
        return self.sampler_ns / self.log_ns


Answer = Literal["objection right", "objection wrong", "mixed", "not measured"]


class Question(msgspec.Struct, kw_only=True):
    """One of the ten questions: its figure, and the value that would prove the objection right."""

    number: int
    title: str
    figure: str
    detail: str
    proves_right_if: str
    answer: Answer


class Report(msgspec.Struct, kw_only=True):
    """Everything that is shown about one trace, or about one experiment of many."""

    schema: str = SCHEMA
    version: int = VERSION
    title: str
    labels: dict[str, str] = {}
    seconds: float = 0.0
    verdict: list[str] = []
    questions: list[Question] = []
    routines: list[RoutineTime] = []
    holds: list[HoldTime] = []
    pairs: list[Pair] = []
    victims: list[Pair] = []
    skips: list[SkipCount] = []
    statements: list[StatementWait] = []
    failures: list[Failure] = []
    quality: Quality = msgspec.field(default_factory=lambda: Quality())
    arms: list[ArmFigures] = []
    cells: list[CellFigures] = []

    @property
    def lock_share(self) -> float | None:
        """Return the wait for database locks, pool and in-process locks as a share of routine wall time."""
        wall = sum(r.wall_ns for r in self.routines)
        if not wall:
            return None
        kinds = ("database lock", "pool", "in-process lock")
        return sum(r.categories[k].middle for r in self.routines for k in kinds) / wall


class ArmFigures(msgspec.Struct, kw_only=True):
    """One arm of an experiment beside the others."""

    arm: str
    rtt_ms: float
    schedulers: int
    repeats: int
    wall_s: list[float]
    cpu_s: list[float]
    items: int
    speed_up: tuple[float, float, float] | None = None
    lock_s_per_item: float | None = None
    lock_share: float | None = None
    hold_median_ns: float | None = None
    busy_rate: float | None = None
    failures_per_10k: float | None = None


class CellFigures(msgspec.Struct, kw_only=True):
    """What one traced run of an experiment says about locks; shares are of routine time."""

    arm: str
    rtt_ms: float
    schedulers: int
    wall_s: float
    waits: int
    lock_s_per_item: float
    database_s_per_item: float
    lock_share: float | None
    loop_share: tuple[float, float] | None
    worst: str
    hold_median_ns: float | None
    refused: int
    attributed: float | None
    unexplained: float | None
    sampler_share: float | None
    sampler_cpu_share: float | None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least *share* of *values* do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * share) - 1)] if ordered else 0.0
