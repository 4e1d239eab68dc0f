"""``airflow async-scheduler top``: a live view of a running scheduler."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from async_scheduler.cli.trace_command import sockets
from async_scheduler.contention.topview import LiveState, render
from async_scheduler.database.address import async_address
from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure.control import NoScheduler, snapshots
from async_scheduler.measure.sampler import sampling

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sqlalchemy.engine import URL


def top(args: Namespace) -> None:
    """Show the view, renewed each second, until Ctrl-C or until the scheduler ends.

    :raises SystemExit: with code 2 when no scheduler, or more than one, can be meant.
    """
    try:
        (path,) = sockets(args)
        asyncio.run(watch(path, metadata_url(), Console(), once=args.once))
    except AsyncSchedulerError as error:
        print(f"airflow async-scheduler top: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def metadata_url() -> URL:
    """Return the URL by which the database's lock waits are sampled."""
    return async_address().monitor_url()


async def watch(path: Path, url: URL, console: Console, *, once: bool = False) -> None:
    """Show the scheduler at *path* until it ends, the user interrupts, or (*once*) after two snapshots.

    :raises NoScheduler: when nobody answers at *path*.
    """
    state = LiveState()
    stop = asyncio.Event()
    async with _sampled(url, state), _interrupted_by(stop):
        if once:
            await _show_once(path, state, console)
        else:
            await _show(path, state, console, stop)


async def _show(path: Path, state: LiveState, console: Console, stop: asyncio.Event) -> None:
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        following = asyncio.ensure_future(
            _follow(path, state, lambda: live.update(render(state, console.width), refresh=True))
        )
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def _follow(path: Path, state: LiveState, renew: Callable[[], None]) -> None:
    async for snapshot in snapshots(path):
        state.see(snapshot)
        renew()


async def _show_once(path: Path, state: LiveState, console: Console) -> None:
    seen = 0
    async for snapshot in snapshots(path):
        state.see(snapshot)
        seen += 1
        if seen == 2:
            console.print(render(state, console.width))
            return
    raise NoScheduler(path)


@asynccontextmanager
async def _sampled(url: URL, state: LiveState) -> AsyncIterator[None]:
    """Sample the database's lock waits from this process, which is not the one that is watched."""
    task = asyncio.ensure_future(_sample(url, state))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sample(url: URL, state: LiveState) -> None:
    state.sampler = "sampled"
    try:
        await sampling(url, state.take, begun=state.begun)
    # A view without database waits is worth more than none.
    except _driver_errors() as error:
        state.sampler = f"not sampled ({type(error).__name__})"
        state.open.clear()


def _driver_errors() -> tuple[type[Exception], ...]:
    from sqlalchemy.exc import SQLAlchemyError

    errors: list[type[Exception]] = [OSError, SQLAlchemyError]
    with suppress(ModuleNotFoundError):
        import asyncpg

        errors += [asyncpg.PostgresError, asyncpg.InterfaceError]
    return tuple(errors)


@asynccontextmanager
async def _interrupted_by(stop: asyncio.Event) -> AsyncIterator[None]:
    """Let Ctrl-C and SIGTERM set *stop*, so that the terminal is left as it was."""
    loop: Any = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
