"""A TCP link with a given round-trip time in front of a database: ``python -m poc_bench.link.relay FILE``.

Every chunk of bytes is passed on half a round trip after it came, in both directions, in order, without a
limit on bandwidth. FILE is a JSON request: where the server listens, the round-trip time in milliseconds, and
where to leave port and figures. SIGHUP makes it read the round-trip time again. It runs in a process of its
own; schedulers go through it, workers do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import statistics
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import cast

KEPT = 20_000
"""How many of the last delays are kept for the figures."""


class Delays:
    """How late chunks were passed on, in seconds beyond what was wanted."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=KEPT)
        self.chunks = 0

    def passed_on(self, late: float) -> None:
        """Note one chunk."""
        self._late.append(late)
        self.chunks += 1

    def figures(self) -> dict[str, float]:
        """Return chunks passed on, and the lateness in milliseconds: median and 99th percentile."""
        if not self._late:
            return {"chunks": 0}
        ordered = sorted(self._late)
        return {
            "chunks": self.chunks,
            "late_p50": round(statistics.median(ordered) * 1000, 3),
            "late_p99": round(ordered[int(len(ordered) * 0.99)] * 1000, 3),
        }


class Direction:
    """Bytes on their way to one end, each chunk with the time when it arrives there."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._target: asyncio.Transport | None = None

    def lead_to(self, target: asyncio.Transport) -> None:
        """Set where the bytes go; what came before has waited for this."""
        self._target = target
        self._set_timer()

    def send(self, data: bytes | None) -> None:
        """Put *data* on its way; None closes the far end after everything sent before."""
        self._under_way.append((self._loop.time() + self._link.delay, data))
        if self._timer is None:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._under_way and self._target is not None:
            self._timer = self._loop.call_at(self._under_way[0][0], self._arrive)
        else:
            self._timer = None

    def _arrive(self) -> None:
        now = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now and self._target is not None:
            due, data = self._under_way.popleft()
            if data is None:
                self._target.close()
            else:
                self._link.delays.passed_on(now - due)
                self._target.write(data)
        self._set_timer()


class Near(asyncio.Protocol):
    """The end that a client is connected to; it opens the far end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._out = Direction(link)
        self._back = Direction(link)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let answers come back here, and connect to the server."""
        self._back.lead_to(cast("asyncio.Transport", transport))
        self._link.connect(self._out, self._back)

    def data_received(self, data: bytes) -> None:
        """Put what the client sent on its way."""
        self._out.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the server, after everything that was sent before."""
        self._out.send(None)


class Far(asyncio.Protocol):
    """The end at the server."""

    def __init__(self, out: Direction, back: Direction) -> None:
        self._out = out
        self._back = back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take what the client has sent so far."""
        self._out.lead_to(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Put the server's answer on its way."""
        self._back.send(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the client, after everything that was sent before."""
        self._back.send(None)


class Link:
    """Listens on a port of this machine and passes everything on to the server, both ways, late."""

    def __init__(self, request_file: Path) -> None:
        self._request_file = request_file
        request = json.loads(request_file.read_text())
        self._socket: str | None = request["socket"]
        self._host: str = request["host"]
        self._port: int = request["port"]
        self.delay = 0.0
        self.read_delay()
        self.delays = Delays()
        self._connecting: set[asyncio.Task[None]] = set()

    def read_delay(self) -> None:
        """Take the round-trip time from the request file; chunks under way keep theirs."""
        self.delay = max(0.0, json.loads(self._request_file.read_text())["rtt"] / 2000)

    async def listen(self) -> tuple[asyncio.Server, int]:
        """Start listening; return the server and its port."""
        server = await asyncio.get_running_loop().create_server(lambda: Near(self), "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    def connect(self, out: Direction, back: Direction) -> None:
        """Open the far end for a client that has just connected."""
        task = asyncio.get_running_loop().create_task(self._connect(out, back), name="connect")
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, out: Direction, back: Direction) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._socket is not None:
                await loop.create_unix_connection(lambda: Far(out, back), self._socket)
            else:
                await loop.create_connection(lambda: Far(out, back), self._host, self._port)
        except OSError:
            back.send(None)


async def serve(link: Link, port_file: Path) -> None:
    """Pass bytes on until SIGTERM; leave the port in *port_file* once listening."""
    server, port = await link.listen()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, link.read_delay)
    _write_at_once(port_file, str(port))
    await stop.wait()
    server.close()


def _write_at_once(file: Path, text: str) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(file)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are good to some ten microseconds; epoll rounds up to a millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(request_file: Path) -> None:
    """Serve the request in *request_file*, then leave the figures."""
    with suppress(PermissionError):
        os.nice(-10)  # a real link takes no turns with the processes of this machine
    request = json.loads(request_file.read_text())
    link = Link(request_file)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(link, Path(request["port_file"])))
    Path(request["figures"]).write_text(json.dumps(link.delays.figures()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
