"""The live view of a running scheduler: what its routines do and who waits for whom, second by second."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from async_scheduler.contention import matrix
from async_scheduler.contention.joining import Joiner
from async_scheduler.contention.questions import seconds
from async_scheduler.measure.events import Event, Party, StatementText, Transaction, Wait
from async_scheduler.measure.live import WINDOW_NS, RoutineView, Snapshot, TransactionSpan

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from async_scheduler.contention.report import Pair

NARROW = 100
MAX_PAIRS = 8
CRITICAL = "enqueue"
"""The routine whose passes are the critical section."""


@dataclass
class LiveState:
    """What the view knows: the last snapshot, and a minute of transactions and database waits."""

    snapshot: Snapshot | None = None
    spans: deque[TransactionSpan] = field(default_factory=lambda: deque(maxlen=50_000))
    sampled: deque[Wait] = field(default_factory=lambda: deque(maxlen=20_000))
    statements: dict[str, StatementText] = field(default_factory=dict)
    open: dict[int | None, Wait] = field(default_factory=dict)
    sampler: str = "starting"

    def begun(self, wait: Wait) -> None:
        """Take a wait that has just been seen; a backend waits for one thing at a time."""
        self.open[wait.waiter.pid] = wait

    def take(self, record: Event) -> None:
        """Take a record of the sampler: a wait that is over, or a statement's text."""
        if isinstance(record, Wait):
            self.open.pop(record.waiter.pid, None)
            self.sampled.append(record)
        elif isinstance(record, StatementText):
            self.statements[record.hash] = record

    def see(self, snapshot: Snapshot) -> None:
        """Take a snapshot of the scheduler."""
        self.snapshot = snapshot
        self.spans.extend(snapshot.spans)
        old = snapshot.at - WINDOW_NS
        while self.spans and self.spans[0].end < old:
            self.spans.popleft()
        while self.sampled and self.sampled[0].t_end < old:
            self.sampled.popleft()

    def waits(self) -> list[Wait]:
        """Return the last minute's waits with their parties, the database's and those inside the process."""
        if self.snapshot is None:
            return []
        joiner = Joiner(map(_transaction, self.spans), self.statements, {})
        return [*joiner.join(list(self.sampled)), *self.snapshot.waits]

    def under_way(self) -> list[Wait]:
        """Return who waits right now, in the database and inside the process."""
        if self.snapshot is None:
            return []
        return [*(self._now(wait, self.snapshot) for wait in self.open.values()), *self.snapshot.waiting]

    def _now(self, wait: Wait, snapshot: Snapshot) -> Wait:
        """Return *wait* with the names of those whose transactions are still open."""

        def named(party: Party) -> Party:
            return party if party.pid is None else snapshot.parties.get(party.pid, party)

        root = wait.root_blocker
        return msgspec.structs.replace(
            wait,
            t_end=max(snapshot.at, wait.t_start),
            waiter=named(wait.waiter),
            immediate_blockers=[named(party) for party in wait.immediate_blockers],
            root_blocker=None if root is None else named(root),
        )


def _transaction(span: TransactionSpan) -> Transaction:
    return Transaction(
        number=span.number,
        routine=span.routine,
        iteration=span.iteration,
        activity=0,
        pid=span.pid,
        start=span.start,
        end=span.end,
        outcome="commit",
        commit_ns=0,
        lock_from=span.lock_from,
        lock_hash=span.lock_hash,
    )


def render(state: LiveState, width: int) -> RenderableType:
    """Return the view for a terminal of *width* columns."""
    snapshot = state.snapshot
    if snapshot is None:
        return Text("waiting for the scheduler …")
    waits = state.waits()
    parts = [
        _head(snapshot, state.sampler, width),
        _critical_section(snapshot, state.spans),
        _routines(snapshot.routines, snapshot.window_ns, width),
        _errors(snapshot.routines) if width < NARROW else None,
        _pairs(matrix.pairs(waits), width),
        _tree(state.under_way()),
        _deadlocks(snapshot),
    ]
    return Group(*(part for part in parts if part is not None))


def _head(snapshot: Snapshot, sampler: str, width: int) -> RenderableType:
    pool = snapshot.pool
    facts = [
        f"{snapshot.process} {snapshot.pid}",
        *(f"{name} {value}" for name, value in snapshot.labels.items()),
        f"pool {pool.in_use}/{pool.size} in use, {pool.waiting} waiting",
        f"loop lag {_lag(snapshot.lag_ns)}, max {_lag(snapshot.lag_max_ns)}",
        f"trace to {snapshot.tracing}" if snapshot.tracing else "no trace",
        f"database waits: {sampler}",
    ]
    return Text(" · ".join(facts), style="bold", overflow="fold" if width < NARROW else "ellipsis")


def _critical_section(snapshot: Snapshot, spans: Iterable[TransactionSpan]) -> RenderableType | None:
    """Return how often the critical section was entered, refused, and how long it was held."""
    view = next((view for view in snapshot.routines if view.name == CRITICAL), None)
    if view is None:
        return None
    held = [s.end - s.lock_from for s in spans if s.routine == CRITICAL and s.lock_from is not None]
    facts = [
        f"critical section: {view.passes * 1e9 / max(1, snapshot.window_ns):.1f} passes/s",
        f"refused {_share(view.busy, view.passes)}",
        f"held {seconds(median(held)) if held else '–'} (median)",
        f"{_share(sum(held), snapshot.window_ns)} of the time",
    ]
    return Text(" · ".join(facts))


def _errors(routines: Iterable[RoutineView]) -> RenderableType | None:
    """Return the last errors, for which a narrow table has no room."""
    lines = [f"{view.name}: {view.last_error}" for view in routines if view.last_error]
    return Text("\n".join(lines), style="red") if lines else None


def _deadlocks(snapshot: Snapshot) -> RenderableType | None:
    """Return the cycles that the watchdog has broken."""
    lines = [
        f"Deadlock broken {seconds(snapshot.at - found.at)} ago: "
        f"{' ⇄ '.join(matrix.label(party) for party in found.parties)}"
        f" on {', '.join(what.key or what.relation or '?' for what in found.objects)}"
        for found in snapshot.deadlocks
    ]
    return Text("\n".join(lines), style="red") if lines else None


def _lag(ns: int | None) -> str:
    return "–" if ns is None else seconds(ns)


def _routines(routines: Sequence[RoutineView], window_ns: int, width: int) -> RenderableType:
    wide = width >= NARROW
    table = Table(box=box.SIMPLE_HEAD, title="Routines, last minute", title_justify="left", expand=wide)
    table.add_column("Routine", overflow="ellipsis", no_wrap=True, max_width=None if wide else 18)
    columns = ["Runs/s", "Busy", "SQL", "Commit", "Locks", "Pool"]
    if wide:
        columns += ["CPU", "Other", "Claimed", "Refused", "Now", "Last error"]
    for column in columns:
        table.add_column(column, justify="left" if column == "Last error" else "right", no_wrap=True)
    for view in routines:
        cells = [f"{view.passes * 1e9 / max(1, window_ns):.1f}", _share(view.wall_ns, window_ns)]
        cells += [
            _share(ns, view.wall_ns) for ns in (view.statement_ns, view.commit_ns, view.lock_ns, view.pool_ns)
        ]
        if wide:
            cells += [
                "–" if view.cpu_ns is None else _share(view.cpu_ns, view.wall_ns),
                _share(view.other_ns, view.wall_ns),
                f"{view.claimed}/{view.wanted}" if view.wanted else "–",
                str(view.busy) if view.busy else "–",
                "–" if view.running_ns is None else seconds(view.running_ns),
            ]
        row = [Text(view.name), *(Text(cell) for cell in cells)]
        if wide:
            row.append(Text(view.last_error or "", style="red"))
        table.add_row(*row)
    return table


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "–"


def _pairs(pairs: Sequence[Pair], width: int) -> RenderableType | None:
    if not pairs:
        return Text("Nobody waited for anybody in the last minute.", style="dim")
    table = Table(box=box.SIMPLE_HEAD, title="Who waited for whom, last minute", title_justify="left")
    table.add_column("Waiter", overflow="ellipsis", no_wrap=True)
    table.add_column("Root holder", overflow="ellipsis", no_wrap=True)
    table.add_column("On", overflow="ellipsis", no_wrap=True)
    for column in ("Waits", "Total", "Max"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in pairs[:MAX_PAIRS]:
        what = ", ".join(list(pair.tables)[: 2 if width >= NARROW else 1])
        names = (Text(pair.waiter), Text(pair.holder), Text(what))
        table.add_row(*names, str(pair.count), seconds(pair.total_ns), seconds(pair.max_ns))
    return table


def _tree(waits: Iterable[Wait]) -> RenderableType | None:
    """Return who is blocked right now, under the one at the root."""
    by_root: dict[str, list[Wait]] = {}
    for wait in waits:
        by_root.setdefault(matrix.holder_label(wait), []).append(wait)
    if not by_root:
        return None
    tree = Tree("Blocked now", style="bold")
    for holder, blocked in by_root.items():
        branch = tree.add(Text(holder, style="yellow"))
        for wait in blocked:
            what = wait.object.relation or wait.object.key or wait.what
            branch.add(Text(f"{_name(wait.waiter)} on {what} for {seconds(wait.t_end - wait.t_start)}"))
    return tree


def _name(party: Party) -> str:
    return matrix.label(party)
