"""CPU seconds of the schedulers, of the database server and of the harness, over a window."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from poc_bench.processes import Child


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds used and wall seconds passed since the meter was made."""

    wall: float
    schedulers: float
    harness: float
    server: float | None
    """None for a server that is not ours. The workers' and the harness's own connections are left out."""
    foreign: float | None
    """What processes that are not part of the cell used, on the whole machine; None where we cannot tell."""


class CpuMeter:
    """Remembers where the CPU clocks stood when it was made.

    *assistants* are the cell's processes that are neither scheduler nor server: workers, link.
    """

    def __init__(
        self,
        schedulers: Sequence[Child],
        assistants: Sequence[Child],
        server_pid: int | None,
        other_backends: Iterable[int],
    ) -> None:
        self._schedulers = schedulers
        self._assistants = assistants
        self._server_pid = server_pid
        self._others = tuple(other_backends)
        self._start = self._clocks()

    def read(self) -> Used:
        """Return what has been used since."""
        wall, schedulers, harness, assistants, server, backends, machine = (
            now - then for now, then in zip(self._clocks(), self._start, strict=True)
        )
        foreign = max(0.0, machine - schedulers - harness - assistants - server)
        ours = self._server_pid is not None
        return Used(wall, schedulers, harness, server - backends if ours else None, foreign if ours else None)

    def _clocks(self) -> tuple[float, ...]:
        return (
            time.monotonic(),
            sum(child.cpu_seconds() for child in self._schedulers),
            time.process_time(),
            sum(child.cpu_seconds() for child in self._assistants),
            self._server_seconds(),
            sum(_seconds_of(pid) for pid in self._others),
            _machine_seconds(),
        )

    def _server_seconds(self) -> float:
        """Return what the server and all its processes have used, ended ones included."""
        if self._server_pid is None:
            return 0.0
        server = psutil.Process(self._server_pid)
        alive = [self._server_pid, *(backend.pid for backend in server.children())]
        ended = server.cpu_times()
        return float(ended.children_user + ended.children_system) + sum(map(_seconds_of, alive))


def _seconds_of(pid: int) -> float:
    """Return what a process of one thread has used, 0 when it is gone.

    In nanoseconds where the kernel has them: its other clock counts in steps of 10 ms for each process, and a
    server's many backends may all stay below one step.
    """
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    with suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _machine_seconds() -> float:
    """Return what all processes have used, and what the host kept from this machine."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "steal", 0.0))
