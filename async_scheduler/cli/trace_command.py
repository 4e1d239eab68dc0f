"""``airflow async-scheduler trace on|off|status``: switches tracing in a running scheduler."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure import control
from async_scheduler.measure.control import Request, Status, ask
from async_scheduler.tracing import socket_directory

if TYPE_CHECKING:
    from argparse import Namespace


class WhichScheduler(AsyncSchedulerError):
    """No running scheduler, or several and none was named."""


def on(args: Namespace) -> None:
    """Begin a trace."""
    directory = str(Path(args.directory).absolute())
    _run(args, Request("on", directory, args.level))


def off(args: Namespace) -> None:
    """End the trace."""
    _run(args, Request("off"))


def status(args: Namespace) -> None:
    """Say whether a trace is being written, and where."""
    _run(args, Request("status"))


def _run(args: Namespace, request: Request) -> None:
    try:
        answers = [asyncio.run(ask(path, request)) for path in sockets(args, several=request.do == "status")]
    except AsyncSchedulerError as error:
        print(f"airflow async-scheduler trace: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    for answer in answers:
        print(_described(answer))  # noqa: T201
    if any(answer.error for answer in answers):
        raise SystemExit(1)


def _described(answer: Status) -> str:
    who = f"{answer.process} {answer.pid}: "
    if answer.error:
        return who + f"refused: {answer.error}"
    if not answer.tracing:
        return who + "no trace is being written"
    lost = f", {answer.dropped} records lost" if answer.dropped else ""
    return who + f"writing a trace ({answer.level}) to {answer.directory}{lost}"


def sockets(args: Namespace, *, several: bool = False) -> list[Path]:
    """Return the control sockets that the arguments mean: one, unless *several* will do.

    :raises WhichScheduler: when none answers, or more than one does.
    """
    if args.socket:
        return [Path(args.socket)]
    directory = socket_directory()
    found = control.alive(sorted(directory.glob(f"{args.pid or '*'}.sock")))
    if not found:
        raise WhichScheduler(f"No running async scheduler has a socket in {directory}")
    if len(found) > 1 and not several:
        pids = ", ".join(path.stem for path in found)
        raise WhichScheduler(f"Several schedulers run: name one with --pid ({pids})")
    return found
