"""``airflow async-scheduler contention DIR``: what a trace, or an experiment of many, says."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console

from async_scheduler.contention import perfetto
from async_scheduler.contention.building import Joined, build, load
from async_scheduler.contention.experiment import FILE as EXPERIMENT
from async_scheduler.contention.family import with_details
from async_scheduler.contention.page import write_page
from async_scheduler.contention.reading import read_trace
from async_scheduler.contention.terminal import show
from async_scheduler.errors import AsyncSchedulerError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from async_scheduler.contention.report import Report

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


class WrongTime(AsyncSchedulerError):
    """A point in time that is not one."""

    def __init__(self, text: str) -> None:
        super().__init__(f"--since wants 90s, 10m, 2h or an ISO time, not {text!r}")


def contention(args: Namespace) -> None:
    """Print the report of a trace and write what was asked for.

    :raises SystemExit: with code 2 when there is nothing to read or to write to.
    """
    try:
        _report(args)
    except (AsyncSchedulerError, OSError) as error:
        print(f"airflow async-scheduler contention: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def _report(args: Namespace) -> None:
    directory = Path(args.directory)
    joined: Joined | None = None
    if (directory / EXPERIMENT).exists():
        if args.since or args.server_log:
            raise AsyncSchedulerError("--since and --server-log are for a single trace, not an experiment")
        found = with_details(directory)
    else:
        joined = _joined(directory, args)
        found = [build(joined, title=f"Contention: {directory.name}")]
    for report in found:
        show(report, Console(highlight=False))
    _write(found, joined, args)


def _joined(directory: Path, args: Namespace) -> Joined:
    since = None
    if args.since:
        trace = read_trace(directory)
        since = since_ns(args.since, trace.interval[1], trace.wall_offset_ns)
    logs = [Path(name) for name in args.server_log or ()]
    return load(directory, server_logs=logs, since_ns=since)


def _write(found: Sequence[Report], joined: Joined | None, args: Namespace) -> None:
    if args.json:
        content = msgspec.json.format(msgspec.json.encode(found), indent=1)
        _written(Path(args.json), content)
    if args.html:
        write_page(found, Path(args.html))
    if args.perfetto:
        if joined is None:
            raise AsyncSchedulerError("--perfetto needs the directory of a single trace")
        left_out = perfetto.write(joined, Path(args.perfetto))
        if left_out:
            print(f"{left_out} events were left out of {args.perfetto}", file=sys.stderr)  # noqa: T201


def _written(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def since_ns(text: str, end_ns: int, wall_offset_ns: int) -> int:
    """Return the time that *text* means, on the monotonic clock.

    ``90s``, ``10m``, ``2h``, ``1d`` count back from the end of the trace; anything else is an ISO time, UTC
    unless it says otherwise.

    :raises WrongTime: for anything else.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return end_ns - int(float(ago[1]) * UNITS[ago[2]] * 1e9)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise WrongTime(text) from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * 1e9) - wall_offset_ns
