"""The socket by which a running process is asked: one JSON object per line each way, for its owner only.

A request is ``{"do": "status" | "on" | "off" | "top"}``, with ``directory`` and ``level`` for ``on``. Each is
answered by one line, ``top`` by one each second until the client hangs up.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure.instrument import Instrument, Level
from async_scheduler.measure.live import LiveView, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

REQUEST_BYTES = 64 * 1024
TOP_PERIOD = 1.0
_ANSWER_TIMEOUT = 10.0


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a client asks."""

    do: Literal["status", "on", "off", "top"]
    directory: str | None = None
    level: Level = "ledger"


class Status(msgspec.Struct, kw_only=True):
    """The answer to ``status``, ``on`` and ``off``; ``error`` says why a request was refused."""

    pid: int
    process: str
    tracing: bool
    directory: str | None
    level: Level
    dropped: int
    error: str | None = None


class NoScheduler(AsyncSchedulerError):
    """Nobody listens at a control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"No running async scheduler answers at {path}")
        self.path = path


class ControlServer:
    """Answers on a unix socket of mode 0600 in a directory of mode 0700."""

    def __init__(self, path: Path, tracer: Tracer) -> None:
        self._path = path
        self._tracer = tracer
        self._clients: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled; the socket is gone afterwards."""
        listening = listen(self._path)
        server = await asyncio.start_unix_server(self._serve, sock=listening, limit=REQUEST_BYTES)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            server.close()
            for client in list(self._clients):
                client.cancel()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await self._talk(reader, writer)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await _line(reader):
            try:
                request = msgspec.json.decode(line, type=Request)
            except msgspec.MsgspecError as error:
                await _send(writer, self._tracer.status(error=str(error)))
                continue
            if request.do == "top":
                await self._stream(reader, writer)
                return
            await _send(writer, await self._tracer.obey(request))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send a snapshot each second until the client hangs up or sends anything."""
        gone = asyncio.ensure_future(reader.read(1))
        with self._tracer.live() as view:
            try:
                while not gone.done():
                    await _send(writer, view.snapshot())
                    await asyncio.wait([gone], timeout=TOP_PERIOD)
            finally:
                gone.cancel()


class Tracer:
    """Switches one instrument's trace on and off for whoever asks."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument

    def status(self, *, error: str | None = None) -> Status:
        """Return whether and where a trace is being written."""
        instrument = self.instrument
        return Status(
            pid=os.getpid(),
            process=instrument.process,
            tracing=instrument.tracing,
            directory=str(instrument.directory) if instrument.directory else None,
            level=instrument.level,
            dropped=instrument.dropped,
            error=error,
        )

    async def obey(self, request: Request) -> Status:
        """Do what *request* asks; a refusal is in the answer."""
        try:
            if request.do == "on":
                if not request.directory or not Path(request.directory).is_absolute():
                    return self.status(error="on needs the absolute path of a directory")
                await self.on(Path(request.directory), request.level)
            elif request.do == "off":
                await self.off()
        except AsyncSchedulerError as error:
            return self.status(error=str(error))
        return self.status()

    async def on(self, directory: Path, level: Level) -> None:
        """Begin a trace."""
        self.instrument.start(directory, level=level)

    async def off(self) -> None:
        """End the trace; its files are complete when this returns."""
        if (writer := self.instrument.detach()) is not None:
            await asyncio.to_thread(writer.close)

    def live(self) -> _Live:
        """Return a context in which a live view of the instrument is kept."""
        return _Live(self.instrument)


class _Live:
    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._view = LiveView(instrument)

    def __enter__(self) -> LiveView:
        self._instrument.recorder.add(self._view.take)
        self._instrument.watch()
        return self._view

    def __exit__(self, *_: object) -> None:
        self._instrument.unwatch()
        self._instrument.recorder.remove(self._view.take)


def listen(path: Path) -> socket.socket:
    """Return a bound socket at *path* that only its owner may use; a dead process's one is replaced.

    :raises OSError: when somebody alive listens there, a file is there that is no socket, or the path is too
        long for one.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if not path.is_socket():
                raise OSError(errno.EEXIST, "A file that is no socket is there", str(path))
            if _answers(path):
                raise OSError(errno.EADDRINUSE, "Somebody listens there", str(path))
            path.unlink()
        made.bind(str(path))
        path.chmod(0o600)  # nobody can connect before it listens
    except OSError:
        made.close()
        raise
    return made


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def alive(paths: Iterable[Path]) -> list[Path]:
    """Return the sockets among *paths* that somebody listens at."""
    return [path for path in paths if _answers(path)]


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # longer than any request
        return b""


async def _send(writer: asyncio.StreamWriter, answer: msgspec.Struct) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    await writer.drain()


async def ask(path: Path, request: Request) -> Status:
    """Send *request* to the process at *path* and return its answer.

    :raises NoScheduler: when nobody answers there in time.
    """
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(str(path))
            await _send(writer, request)
            line = await reader.readline()
            writer.close()
    except (OSError, TimeoutError) as error:
        raise NoScheduler(path) from error
    if not line:
        raise NoScheduler(path)
    return msgspec.json.decode(line, type=Status)


async def snapshots(path: Path) -> AsyncIterator[Snapshot]:
    """Yield a snapshot of the process at *path* each second, until it ends.

    :raises NoScheduler: when nobody answers there.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=2**26)
    except OSError as error:
        raise NoScheduler(path) from error
    try:
        await _send(writer, Request(do="top"))
        while line := await reader.readline():
            yield msgspec.json.decode(line, type=Snapshot)
    finally:
        writer.close()
