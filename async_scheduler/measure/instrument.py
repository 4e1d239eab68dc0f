"""Switches the measuring of a process on and off."""

from __future__ import annotations

import os
import socket
from time import monotonic_ns, process_time_ns, time_ns
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakSet

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure import attribution, registry, stepping
from async_scheduler.measure.events import Header, Lag, Outcome, Party, Stopped, Wait
from async_scheduler.measure.ledger import Ledger
from async_scheduler.measure.recorder import Recorder
from async_scheduler.measure.wrappers import EngineWrappers
from async_scheduler.measure.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sqlalchemy.engine import Engine

Level = Literal["ledger", "steps"]
"""How deep: ``ledger`` is transactions, statements, pool and locks; ``steps`` is also CPU per routine, and
the loop's busy share where the loop is :func:`async_scheduler.measure.stepping.new_event_loop`'s.
"""
LEVELS: tuple[Level, ...] = get_args(Level)


_installed: WeakSet[Instrument] = WeakSet()


class AlreadyTracing(AsyncSchedulerError):
    """A trace is being written already."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__(f"A trace is being written already, to {directory}")
        self.directory = directory


class InProcessWaits:
    """The waits for named locks and pool slots: those under way, and a record of each that ends."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.waiting: dict[int, registry.Wait] = {}

    def began(self, wait: registry.Wait) -> None:
        """Keep *wait* while it lasts."""
        self.waiting[id(wait)] = wait

    def ended(self, wait: registry.Wait, outcome: Outcome) -> None:
        """Record *wait*; who held the thing when it began is its blocker."""
        self.waiting.pop(id(wait), None)
        blockers = [holder.party() for holder in wait.first_holders]
        self._recorder.put(
            Wait(
                what=wait.layer,
                t_start=wait.start,
                t_end=monotonic_ns(),
                exactness="exact",
                waiter=wait.waiter.party(),
                source="client",
                object=wait.object,
                immediate_blockers=blockers,
                root_blocker=blockers[0] if len(blockers) == 1 else None,
                outcome=outcome,
            )
        )


class Instrument:
    """The measuring of one process: at most one instrument is on at a time.

    Attach the engines first (before their first connection, where possible), then :meth:`start`; both may
    also happen while they are in use. A trace begins with the next checkout of each connection.
    """

    def __init__(self, process: str, *, labels: Mapping[str, str] | None = None) -> None:
        self.process = process
        self.labels = dict(labels or {})
        self.recorder = Recorder()
        self.ledger = Ledger(self.recorder)
        self.waits = InProcessWaits(self.recorder)
        self.directory: Path | None = None
        self.level: Level = "ledger"
        self.engines: list[Engine] = []
        self._wrappers: list[EngineWrappers] = []
        self._writer: Writer | None = None
        self._watching = 0
        self._started = (0, 0)

    @property
    def tracing(self) -> bool:
        """Whether a trace is being written."""
        return self._writer is not None

    @property
    def dropped(self) -> int:
        """Return how many records the trace being written has lost."""
        return self._writer.dropped if self._writer else 0

    @property
    def installed(self) -> bool:
        """Whether the engines are wrapped."""
        return self._watching > 0

    def attach(self, engines: Iterable[Engine]) -> None:
        """Measure *engines* (the sync face of an async engine is its ``sync_engine``) while this is on."""
        for engine in engines:
            self.engines.append(engine)
            if self.installed:
                self._wrap(engine)

    def start(self, directory: Path, *, level: Level = "ledger") -> None:
        """Write a trace to *directory* from now on.

        :raises AlreadyTracing: when one is being written.
        :raises TraceDirectoryUnusable: when nothing can be written there; nothing has changed then.
        """
        if self._writer is not None:
            raise AlreadyTracing(self.directory)
        self.level = level
        name = f"{self.process}-{socket.gethostname()}-{os.getpid()}-{time_ns()}"
        self._writer = Writer(directory, name, self._header)
        self.directory = directory
        self._started = (monotonic_ns(), process_time_ns())
        self.recorder.add(self._writer.put)
        self.watch(level)

    def stop(self) -> None:
        """Finish the trace, if one is being written; blocks until it is on disk."""
        if (writer := self.detach()) is not None:
            writer.close()

    def detach(self) -> Writer | None:
        """End the trace without waiting for the disk; the writer returned is still to be closed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self.unwatch()
            self.recorder.remove(writer.put)
            writer.put(self._stopped(writer))
            self.directory = None
        return writer

    def watch(self, level: Level = "ledger") -> None:
        """Measure without writing (for a live view); each call needs its :meth:`unwatch`."""
        self._watching += 1
        stepping.enabled = stepping.enabled or level == "steps"
        if self._watching == 1:
            for engine in self.engines:
                self._wrap(engine)
            attribution.sink = self.recorder.put
            registry.observer = self.waits
            _installed.add(self)

    def unwatch(self) -> None:
        """Undo one :meth:`watch`; after the last one nothing is wrapped any more."""
        self._watching -= 1
        if self._watching == 0:
            _installed.discard(self)
            attribution.sink = None
            registry.observer = None
            stepping.enabled = False
            while self._wrappers:
                self._wrappers.pop().uninstall()

    def forget(self) -> None:
        """Drop everything without writing: for a forked child, where the writer's thread does not exist."""
        self._writer, self.directory = None, None
        while self.installed:
            self.unwatch()

    def lag(self, seconds: float) -> None:
        """Record that the event loop was late by *seconds* (see :mod:`async_scheduler.measure.loop_lag`)."""
        if self.installed:
            self.recorder.put(Lag(monotonic_ns(), int(seconds * 1e9)))

    def parties(self) -> dict[int, Party]:
        """Return who uses which backend now, by its pid."""
        return {c.pid: c.holder.party() for c in list(self.ledger.checkouts.values()) if c.pid}

    def _wrap(self, engine: Engine) -> None:
        wrappers = EngineWrappers(engine, self.ledger)
        wrappers.install()
        self._wrappers.append(wrappers)

    def _header(self, part: int) -> Header:
        return Header(
            process=self.process,
            host=socket.gethostname(),
            pid=os.getpid(),
            level=self.level,
            wall_ns=time_ns(),
            monotonic_ns=monotonic_ns(),
            part=part,
            labels=self.labels,
        )

    def _stopped(self, writer: Writer) -> Stopped:
        now, cpu = monotonic_ns(), process_time_ns()
        return Stopped(
            process=self.process,
            at=now,
            wall_ns=now - self._started[0],
            cpu_ns=cpu - self._started[1],
            writer_cpu_ns=writer.cpu_ns,
            records=writer.taken,
            dropped=writer.dropped,
        )


def _forget_in_forked_child() -> None:
    """Measure nothing in a forked worker: it has no writer, and its work is not the parent's."""
    for instrument in list(_installed):
        instrument.forget()


os.register_at_fork(after_in_child=_forget_in_forked_child)
