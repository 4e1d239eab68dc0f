"""A TCP link to the database that stalls, resets connections, or passes half of a message and ends."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass, field

CHUNK = 1 << 16
STALLED = 3.0
"""Seconds for which a stalled connection passes nothing on."""


@dataclass(slots=True, eq=False)
class _Connection:
    """Both ends of one connection. ``cut`` – pass half of the next chunk on, then reset."""

    writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]
    open: asyncio.Event = field(default_factory=asyncio.Event)
    cut: bool = False

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class FaultyLink:
    """Listens on a port of 127.0.0.1 and passes bytes to and from a unix socket, on a thread of its own."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self.port = 0

    def __enter__(self) -> FaultyLink:
        self._thread.start()
        assert self._started.wait(300), "the link does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._welcome, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """End every connection, those not yet passed on included, and wait until they are gone."""
        await asyncio.sleep(0.1)  # whoever was just let in has a task that runs
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            writer.transport.abort()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        connection = _Connection((writer, far_writer))
        connection.open.set()
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(connection, reader, far_writer), name="out")
                group.create_task(_pass_on(connection, far_reader, writer), name="back")
        finally:
            self._connections.discard(connection)
            connection.reset()

    def hurt(self, draw: random.Random) -> list[str]:
        """Do something to one connection, or to all; return what, once for each."""
        return asyncio.run_coroutine_threadsafe(self._hurt(draw), self._loop).result(60)

    async def _hurt(self, draw: random.Random) -> list[str]:
        living = list(self._connections)
        if not living:
            return []
        what = draw.choice(("link stalled", "link reset", "link reset", "half a message", "half a message"))
        victims = living if what == "link stalled" and draw.random() < 0.3 else [draw.choice(living)]
        for victim in victims:
            if what == "link reset":
                victim.reset()
            elif what == "half a message":
                victim.cut = True
            else:
                victim.open.clear()
        if what == "link stalled":
            await asyncio.sleep(draw.uniform(0.5, STALLED))
            for victim in victims:
                victim.open.set()
        return [what] * len(victims)


async def _pass_on(
    connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK):
            await connection.open.wait()
            if connection.cut:
                writer.write(data[: len(data) // 2])
                await writer.drain()
                break
            writer.write(data)
            await writer.drain()
    connection.reset()
