"""The sampler's own process: ``python -m async_scheduler.measure.sampler DIRECTORY``, the URL on its input.

It runs outside the measured process because inside it would sample just when the loop is free, that is when
others wait. The database URL comes through standard input, so that no password shows in a process list,
and the end of that input ends the sampler: it cannot outlive whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from pathlib import Path
from time import monotonic_ns, process_time_ns, time_ns
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, make_url

from async_scheduler.measure import backend_cpu
from async_scheduler.measure.events import Event, Header, Stopped, Wait
from async_scheduler.measure.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

BACKEND = "sampler's backend"
"""The name under which the sampler's database backend stands in a trace, where its CPU can be known."""
PERIODS = {"postgresql": 0.01, "mysql": 0.02, "mariadb": 0.12}


class Sampler:
    """A running sampler process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: URL, directory: Path, *, period: float | None = None) -> Sampler:
        """Start sampling the database of *url* into *directory*; return when the first sample can be taken.

        :raises RuntimeError: when the sampler ends at once; the message is its own.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "async_scheduler.measure.sampler", str(directory)),
            *(("--period", str(period)) if period else ()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(url.render_as_string(hide_password=False).encode() + b"\n")
        await process.stdin.drain()
        if not await process.stdout.readline():
            _, output = await process.communicate()
            problem = output.decode(errors="replace").strip().splitlines()
            raise RuntimeError(problem[-1] if problem else "The sampler ended at once")
        return cls(process)

    async def stop(self) -> None:
        """End the sampler; what it saw is written when this returns."""
        await self._process.communicate(b"")


def main(arguments: list[str] | None = None) -> int:
    """Sample until the standard input ends; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m async_scheduler.measure.sampler", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--period", type=float)
    options = parser.parse_args(arguments)
    url = make_url(sys.stdin.readline().strip())
    period = options.period or PERIODS.get(url.get_backend_name(), 0.05)
    asyncio.run(_run(url, options.directory, period))
    return 0


async def _run(url: URL, directory: Path, period: float) -> None:
    name = f"sampler-{socket.gethostname()}-{os.getpid()}-{time_ns()}"
    writer = Writer(directory, name, lambda part: _header(part, url, period))
    started = [(monotonic_ns(), process_time_ns())]

    def ready() -> None:
        """Count from here: starting costs once, sampling all the time."""
        started.append((monotonic_ns(), process_time_ns()))
        _announce()

    try:
        await _until_input_ends(sampling(url, writer.put, period, ready))
    finally:
        writer.put(_stopped(writer, started[-1]))
        writer.close()


def _header(part: int, url: URL, period: float) -> Header:
    return Header(
        process="sampler",
        host=socket.gethostname(),
        pid=os.getpid(),
        level="sampler",
        wall_ns=time_ns(),
        monotonic_ns=monotonic_ns(),
        part=part,
        labels={"backend": url.get_backend_name(), "period_ms": f"{period * 1000:g}"},
    )


def _stopped(writer: Writer, started: tuple[int, int]) -> Stopped:
    now = monotonic_ns()
    return Stopped(
        process="sampler",
        at=now,
        wall_ns=now - started[0],
        cpu_ns=process_time_ns() - started[1],
        writer_cpu_ns=writer.cpu_ns,
        records=writer.taken,
        dropped=writer.dropped,
    )


def _of_backend(started: int, cpu_ns: int) -> Stopped:
    now = monotonic_ns()
    return Stopped(
        process=BACKEND,
        at=now,
        wall_ns=now - started,
        cpu_ns=cpu_ns,
        writer_cpu_ns=0,
        records=0,
        dropped=0,
    )


async def _until_input_ends(work: Any) -> None:
    sampling = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(_input_ended())
    await asyncio.wait({sampling, ended}, return_when=asyncio.FIRST_COMPLETED)
    if sampling.done():
        ended.cancel()
        sampling.result()
    sampling.cancel()
    await asyncio.gather(sampling, return_exceptions=True)


async def _input_ended() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def _announce() -> None:
    """Tell the parent that it may begin."""
    print("sampling", flush=True)  # noqa: T201


async def sampling(
    url: URL,
    put: Callable[[Event], None],
    period: float | None = None,
    ready: Callable[[], None] = lambda: None,
    begun: Callable[[Wait], None] | None = None,
) -> None:
    """Sample the lock waits of the database of *url* every *period* seconds until cancelled.

    ``ready()`` is called once, when the first sample can be taken; ``begun`` is told of each wait that is
    first seen, ``put`` when it is over. SQLite has nothing to sample.
    """
    backend = url.get_backend_name()
    every = period or PERIODS.get(backend, 0.05)
    if backend == "postgresql":
        await _sample_postgres(url, put, every, ready, begun)
    elif backend in ("mysql", "mariadb"):
        from async_scheduler.measure import mysql_sampler

        await mysql_sampler.sample(url, put, period=every, ready=ready, begun=begun)
    else:
        ready()


def asyncpg_arguments(url: URL) -> dict[str, Any]:
    """Return what ``asyncpg.connect`` takes for an SQLAlchemy *url* of any PostgreSQL driver."""
    dialect = url.set(drivername="postgresql+asyncpg").get_dialect()()
    arguments = dict(dialect.create_connect_args(url)[1])
    for name in ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback"):
        arguments.pop(name, None)
    if "statement_cache_size" in arguments:
        arguments["statement_cache_size"] = int(arguments["statement_cache_size"])
    return arguments


async def _sample_postgres(
    url: URL,
    put: Callable[[Event], None],
    period: float,
    ready: Callable[[], None],
    begun: Callable[[Wait], None] | None,
) -> None:
    import asyncpg

    from async_scheduler.measure import postgres_sampler

    settings = {"application_name": postgres_sampler.APPLICATION}
    connection = await asyncpg.connect(**asyncpg_arguments(url), server_settings=settings)
    started, pid = monotonic_ns(), connection.get_server_pid()
    used = backend_cpu.cpu_ns(url, pid)
    try:
        ready()
        await postgres_sampler.sample(connection, put, period=period, begun=begun)
    finally:
        if used is not None and (now := backend_cpu.cpu_ns(url, pid)) is not None:
            put(_of_backend(started, now - used))
        # waits for the cancelled block to end, so that the server has no lost client to complain about
        await connection.close(timeout=2)


if __name__ == "__main__":
    sys.exit(main())
