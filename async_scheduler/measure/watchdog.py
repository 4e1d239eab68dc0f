"""Finds cycles of waits that no database can see, and breaks them.

The database knows its own locks, the event loop knows its own, neither knows the pool. Here all are edges
of one wait-for graph whose nodes are tasks: a task waits for the holder of a named lock; for *all* backends
that block its statement; for *any one* holder of a pool slot. A task that waits for nothing known can go
on, and so can whoever waits for it; what is left when no more tasks can be struck out is a deadlock.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from async_scheduler.measure.events import Deadlock, LockObject, Party

if TYPE_CHECKING:
    import weakref
    from types import FrameType

    import greenlet

    from async_scheduler.measure.instrument import Instrument
    from async_scheduler.measure.ledger import Checkout
    from async_scheduler.measure.registry import Holder

Edges = Callable[[list[int]], Awaitable[Mapping[int, Sequence[int]]]]
"""Asks the database who blocks which of our backends now."""

INTERVAL = 0.2
PATIENCE_NS = 150_000_000
_DEPTH = 40


@dataclass(slots=True)
class Node:
    """A task that waits: for whom, for what, since when."""

    task: asyncio.Task[Any]
    holder: Holder
    ahead: list[int]
    any_of: bool
    what: LockObject
    since: int
    in_process: bool
    greenlet: greenlet.greenlet | None
    key: object = field(default=None)


def deadlocked(nodes: Mapping[int, Node]) -> set[int]:
    """Return the nodes that can never go on, given that whoever is not a node can.

    A node with ``any_of`` goes on when one of those ahead of it can, any other when all of them can.
    """
    stuck = set(nodes)
    while True:
        free = {n for n in stuck if _can_go_on(nodes[n], stuck)}
        if not free:
            return stuck
        stuck -= free


def _can_go_on(node: Node, stuck: set[int]) -> bool:
    able = (ahead not in stuck for ahead in node.ahead)
    return any(able) if node.any_of else all(able)


def cycle(nodes: Mapping[int, Node], stuck: set[int]) -> list[int]:
    """Return one cycle among the *stuck* nodes, each followed by one that it waits for."""
    current, path = min(stuck), list[int]()
    while current not in path:
        path.append(current)
        current = next(ahead for ahead in nodes[current].ahead if ahead in stuck)
    return path[path.index(current) :]


class Watchdog:
    """Looks for cycles every 0.2 s while the instrument is on; a cycle seen twice in a row is real.

    The party whose pass began last is cancelled; its ``attribution.routine`` block raises
    :class:`~async_scheduler.measure.attribution.DeadlockVictim`, and the pass is retried by its driver.
    """

    def __init__(self, instrument: Instrument, edges: Edges | None = None) -> None:
        self._instrument = instrument
        self._edges = edges
        self._suspected: frozenset[object] = frozenset()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL if self._instrument.installed else 5 * INTERVAL)
            await self.look()

    async def look(self) -> Deadlock | None:
        """Look once; return the deadlock found and broken, if any."""
        nodes = await self._nodes()
        stuck = deadlocked(nodes)
        found = cycle(nodes, stuck) if stuck else []
        parties = [nodes[n] for n in found]
        if not any(node.in_process for node in parties):
            self._suspected = frozenset()  # the database breaks its own cycles
            return None
        keys = frozenset(node.key for node in parties)
        if keys != self._suspected:
            self._suspected = keys
            return None
        self._suspected = frozenset()
        return self._break(parties)

    async def _nodes(self) -> dict[int, Node]:
        old = monotonic_ns() - PATIENCE_NS
        waits = [w for w in self._instrument.waits.waiting.values() if w.start <= old]
        if not waits:
            return {}
        nodes = await self._database_nodes(old)
        for wait in waits:
            task = _alive(wait.waiter.task)
            holders = [t for h in wait.holders() if (t := _alive(h.task)) is not None]
            if task is not None and holders:
                ahead = [id(t) for t in holders]
                any_of = wait.layer == "pool"
                nodes[id(task)] = Node(
                    task, wait.waiter, ahead, any_of, wait.object, wait.start, True, wait.greenlet, id(wait)
                )
        return nodes

    async def _database_nodes(self, old: int) -> dict[int, Node]:
        running = {c.pid: c for c in self._checkouts() if c.running is not None and c.since <= old and c.pid}
        if self._edges is None or not running:
            return {}
        began = {pid: checkout.since for pid, checkout in running.items()}
        blocked = await self._edges(list(running))
        owners = {c.pid: t for c in self._checkouts() if (t := _alive(c.holder.task)) is not None}
        nodes: dict[int, Node] = {}
        for pid, blockers in blocked.items():
            checkout, task = running.get(pid), owners.get(pid)
            if checkout is None or task is None or checkout.running is None or checkout.since != began[pid]:
                continue
            ahead = [id(owners[b]) if b in owners else -b for b in blockers]
            what = LockObject(key="database lock", mode=checkout.running.hash)
            nodes[id(task)] = Node(
                task,
                checkout.holder,
                ahead,
                False,
                what,
                checkout.since,
                False,
                checkout.greenlet,
                (pid, checkout.since),
            )
        return nodes

    def _checkouts(self) -> list[Checkout]:
        return list(self._instrument.ledger.checkouts.values())

    def _break(self, parties: list[Node]) -> Deadlock:
        youngest = max(range(len(parties)), key=lambda n: _age(parties[n]))
        found = Deadlock(
            at=monotonic_ns(),
            parties=[_described(node) for node in parties],
            objects=[node.what for node in parties],
            stacks=[stack(node) for node in parties],
            victim=youngest if _cancel(parties[youngest]) else None,
            age_ns=monotonic_ns() - max(node.since for node in parties),
        )
        self._instrument.recorder.put(found)
        return found


def _age(node: Node) -> int:
    return node.holder.activity.start if node.holder.activity is not None else node.holder.since


def _described(node: Node) -> Party:
    return node.holder.party()


def _cancel(node: Node) -> bool:
    activity = node.holder.activity
    task = _alive(activity.task) if activity is not None else None
    if activity is None or task is None:
        return False
    activity.victim = True
    task.cancel("chosen to break a deadlock across layers")
    return True


def _alive(reference: weakref.ref[asyncio.Task[Any]] | None) -> asyncio.Task[Any] | None:
    task = reference() if reference is not None else None
    return task if task is not None and not task.done() else None


def stack(node: Node) -> list[str]:
    """Return where a waiting task stands, outermost call first, through its greenlet too; no values."""
    lines = [f"{f.f_code.co_filename}:{f.f_lineno} {f.f_code.co_qualname}" for f in _frames(node.task)]
    inner = node.greenlet.gr_frame if node.greenlet is not None else None
    if inner is not None:
        summary = traceback.extract_stack(inner, limit=_DEPTH)
        lines += [f"{s.filename}:{s.lineno} {s.name}" for s in summary]
    return lines


def _frames(task: asyncio.Task[Any]) -> list[FrameType]:
    """Return the frames of a suspended task, outermost first (``Task.get_stack`` has the outermost only)."""
    frames: list[FrameType] = []
    awaiting: Any = task.get_coro()
    while awaiting is not None and len(frames) < _DEPTH:
        frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "gi_yieldfrom", None)
    return frames
