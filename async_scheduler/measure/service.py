"""Everything that makes a process traceable while it runs: control socket, watchdog, sampler."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from async_scheduler.measure.control import ControlServer, Tracer
from async_scheduler.measure.sampler import Sampler, asyncpg_arguments
from async_scheduler.measure.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.engine import URL

    from async_scheduler.measure.instrument import Instrument, Level

log = logging.getLogger(__name__)

SAMPLED = ("postgresql", "mysql", "mariadb")


class BlockingQuestion:
    """Asks PostgreSQL who blocks our backends, on a connection of its own, opened when first needed."""

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: Any = None

    async def __call__(self, pids: list[int]) -> Mapping[int, Sequence[int]]:
        """Return who blocks each of *pids* now; nothing when the database cannot be asked."""
        import asyncpg

        from async_scheduler.measure.postgres_sampler import edges

        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(**asyncpg_arguments(self._url), timeout=2)
            return await edges(self._connection, pids)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("The watchdog cannot ask the database: %s", type(error).__name__)
            return {}

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.terminate()


class MeasureService(Tracer):
    """What a process runs beside its work so that it can be traced at any time.

    While nothing is traced it costs a socket that nobody talks to and one wake-up a second.

    :param url: the database, which the watchdog asks who blocks whom.
    :param socket_path: where to listen; None for no control socket.
    :param sampled: the database whose lock waits a sampler shall record beside a trace; None for no sampler.
    """

    def __init__(
        self, instrument: Instrument, url: URL, socket_path: Path | None, *, sampled: URL | None = None
    ) -> None:
        super().__init__(instrument)
        self._url = url
        self._sampled = sampled if sampled is not None and sampled.get_backend_name() in SAMPLED else None
        self._socket_path = socket_path
        self._sampler: Sampler | None = None

    async def on(self, directory: Path, level: Level) -> None:
        """Begin a trace, and sample the database's lock waits into the same directory."""
        await super().on(directory, level)
        if self._sampled is not None:
            try:
                self._sampler = await Sampler.start(self._sampled, directory)
            except (OSError, RuntimeError) as error:
                log.warning("The trace goes without samples of the database's locks: %s", error)

    async def off(self) -> None:
        """End the trace and the sampler."""
        await super().off()
        sampler, self._sampler = self._sampler, None
        if sampler is not None:
            await sampler.stop()

    async def run(self) -> None:
        """Serve until cancelled; end a trace that is being written then."""
        question = self._question()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(Watchdog(self.instrument, question).run(), name="watchdog")
                if self._socket_path is not None:
                    group.create_task(self._control(self._socket_path), name="control socket")
        finally:
            if question is not None:
                question.close()
            await asyncio.shield(self.off())

    def _question(self) -> BlockingQuestion | None:
        return BlockingQuestion(self._url) if self._url.get_backend_name() == "postgresql" else None

    async def _control(self, path: Path) -> None:
        """Listen at *path*; a process that cannot is still worth running."""
        try:
            await ControlServer(path, self).run()
        except OSError as error:
            log.warning("No control socket at %s: %s", path, error.strerror or error)
