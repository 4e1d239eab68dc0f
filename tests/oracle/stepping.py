"""Lets coroutines go on one at a time, from one database await to the next.

Each actor stops before every statement, after every statement, before every commit and after it. Whoever
holds the :class:`Stepper` says who goes on. An actor that waits for a lock in the database counts as stopped
until the lock is given up: nothing here depends on time.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from sqlalchemy import event
from sqlalchemy.util import await_only

from async_scheduler.database.transaction import RoutineSession

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    import asyncpg
    from sqlalchemy.ext.asyncio import AsyncEngine

PATIENCE = 0.002
"""Seconds until it is asked whether an actor that has not stopped waits for a lock."""

_current: ContextVar[Actor | None] = ContextVar("actor", default=None)


class Actor:
    """One coroutine under control, with whatever tasks it makes. ``free`` ones stop no more."""

    def __init__(self, name: str, changed: asyncio.Event) -> None:
        self.name = name
        self.free = False
        self.at = "its beginning"
        self.pid: int | None = None
        self.task: asyncio.Task[Any] | None = None
        self._changed = changed
        self._gate: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<{self.name} at {self.at}>"

    @property
    def is_done(self) -> bool:
        """Whether it has come to its end."""
        return self.task is not None and self.task.done()

    @property
    def is_stopped(self) -> bool:
        """Whether it waits to be let go on."""
        return self._gate is not None

    @property
    def is_on_its_way(self) -> bool:
        """Whether it neither waits for us nor has ended."""
        return not (self.is_stopped or self.is_done)

    async def stop(self, where: str) -> None:
        """Wait until let go on."""
        self.at, self._gate = where, asyncio.get_running_loop().create_future()
        self._changed.set()
        await self._gate

    def go_on(self) -> None:
        """Let it go on to its next stop."""
        assert self._gate is not None
        gate, self._gate = self._gate, None
        gate.set_result(None)


class Stepper:
    """The actors on one engine. *monitor* is a connection of its own that asks who waits for locks."""

    def __init__(self, engine: AsyncEngine, monitor: asyncpg.Connection[Any]) -> None:
        self._engine = engine
        self._monitor = monitor
        self._changed = asyncio.Event()
        self.actors: dict[str, Actor] = {}

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Make actors stop at every database await while the block runs."""
        sync = self._engine.sync_engine
        hooks: dict[str, Callable[..., Any]] = {
            "before_cursor_execute": lambda conn, _cursor, statement, *_: _stop(
                f"before {statement[:60]}", conn
            ),
            "after_cursor_execute": lambda _conn, _cursor, statement, *_: _stop(f"after {statement[:60]}"),
            "commit": lambda conn: _stop("before its commit", conn),
        }
        for name, hook in hooks.items():
            event.listen(sync, name, hook)
        commit = RoutineSession.commit

        def stopping_commit(session: RoutineSession) -> None:
            commit(session)
            _stop("after its commit")

        try:
            with patch.object(RoutineSession, "commit", stopping_commit):
                yield
        finally:
            for name, hook in hooks.items():
                event.remove(sync, name, hook)

    def start(self, name: str, work: Coroutine[Any, Any, Any]) -> Actor:
        """Start an actor; it runs when next it is waited for (:meth:`settle`)."""
        actor = Actor(name, self._changed)
        self.actors[name] = actor
        context = copy_context()
        context.run(_current.set, actor)
        actor.task = asyncio.get_running_loop().create_task(work, name=actor.name, context=context)
        actor.task.add_done_callback(lambda _: self._changed.set())
        return actor

    def stopped(self) -> list[Actor]:
        """Return the actors that wait to be let go on, in an order that is the same every time."""
        return sorted((one for one in self.actors.values() if one.is_stopped), key=lambda one: one.name)

    async def settle(self) -> None:
        """Wait until every actor has stopped, ended, or waits for a lock that a stopped one holds."""
        while on_their_way := [one for one in self.actors.values() if one.is_on_its_way]:
            self._changed.clear()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._changed.wait()
            except TimeoutError:
                if await self._wait_for_us({one.pid for one in on_their_way}):
                    return

    async def _wait_for_us(self, pids: set[int | None]) -> bool:
        """Whether all backends in *pids* wait for locks, and not just for each other."""
        rows = await self._monitor.fetch(
            "SELECT pid, pg_blocking_pids(pid) AS held_by FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        held_by = {row["pid"]: set(row["held_by"]) for row in rows}
        known = {one.pid for one in self.actors.values()}
        strangers = held_by.keys() - known
        blocked = all(pid in held_by or (pid is None and strangers) for pid in pids)
        # In a deadlock everybody is blocked by the blocked: the server will end one of them.
        return blocked and any(holders - held_by.keys() for holders in held_by.values())

    async def release(self) -> None:
        """Let everybody go on to the end without stopping."""
        for actor in list(self.actors.values()):
            actor.free = True
        for actor in self.stopped():
            actor.go_on()
        tasks = [one.task for one in self.actors.values() if one.task is not None and not one.is_done]
        if tasks:
            await asyncio.wait(tasks)

    async def abandon(self) -> None:
        """End everybody where they are: their transactions are rolled back."""
        tasks = [one.task for one in self.actors.values() if one.task is not None and not one.is_done]
        for actor in self.actors.values():
            actor.free = True
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=300)


def _stop(where: str, connection: Any = None) -> None:
    actor = _current.get()
    if actor is None or actor.free:
        return
    if connection is not None:
        actor.pid = connection.connection.driver_connection.get_server_pid()
    await_only(actor.stop(where))
