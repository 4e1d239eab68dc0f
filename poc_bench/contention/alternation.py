"""What tracing costs a scheduler: switched on and off in turn while it works, window by window.

``python -m poc_bench.contention.alternation OUT.json --runs 12``. A run is one scheduler on work that lasts
for many windows of a few seconds. Each pair of neighbouring windows has one that is traced and one that is
not, which of them first changes from pair to pair (on off, off on, …) and from run to run. A window's figure
is the CPU of the scheduler's process, user and system, all its threads, for one task instance. Starting and
ending the trace, its writer included, belong to the traced window; the other one is asked over the same
socket as often. The first windows, which start the runs, and those in which the work ended are left out.

The estimate is fixed beforehand: the mean of the logarithms of the pairs' ratios, a fifth of them left out at
either end, with the 95 % percentile interval of 10,000 bootstrap samples of the pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from async_scheduler.measure.control import Request, ask
from poc_bench import machine
from poc_bench.arms import arm
from poc_bench.bench import Bench
from poc_bench.cell import Cell
from poc_bench.database.postgres import EmbeddedPostgres
from poc_bench.database.rows import CellDatabase
from poc_bench.errors import CellFailure
from poc_bench.site import CellKey
from poc_bench.workloads import sized_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc_bench.site import CellSite

SOCKET = "AIRFLOW__ASYNC_SCHEDULER__CONTROL_SOCKET"
SAMPLER = "AIRFLOW__ASYNC_SCHEDULER__TRACE_SAMPLER"
SKIPPED = 1
"""Windows at the start of a run that count for nothing."""
TRIMMED = 0.2
SAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Window:
    """Some seconds of a scheduler: CPU seconds and task instances done in them."""

    traced: bool
    seconds: float
    cpu: float
    scheduled: int
    queued: int
    ended: int

    @property
    def tasks(self) -> float:
        """The task instances done, each step a third of one."""
        return (self.scheduled + self.queued + self.ended) / 3

    @property
    def cost(self) -> float:
        """CPU seconds for a task instance."""
        return self.cpu / self.tasks


def pairs(windows: Sequence[Window]) -> list[tuple[Window, Window]]:
    """Return the pairs of neighbours of one run, (traced, not traced)."""
    last = next((n for n, window in enumerate(windows) if n and not window.scheduled), len(windows)) - 1
    kept = windows[SKIPPED:last]  # in the last one that scheduled anything, the work may have run out
    return [(a, b) if a.traced else (b, a) for a, b in zip(kept[::2], kept[1::2], strict=False)]


def trimmed_mean(values: Sequence[float]) -> float:
    """Return the mean without a fifth of the values at either end."""
    left_out = int(len(values) * TRIMMED)
    return fmean(sorted(values)[left_out : len(values) - left_out])


def estimate(coupled: Sequence[tuple[Window, Window]]) -> tuple[float, float, float]:
    """Return traced / not traced, as the module's docstring says, and its interval."""
    logs = [log(traced.cost / plain.cost) for traced, plain in coupled]
    chance = random.Random(1)
    found = sorted(trimmed_mean(chance.choices(logs, k=len(logs))) for _ in range(SAMPLES))
    low, high = found[int(0.025 * SAMPLES)], found[int(0.975 * SAMPLES) - 1]
    return exp(trimmed_mean(logs)), exp(low), exp(high)


class AlternatingCell(Cell):
    """A cell whose scheduler is traced every other window."""

    def __init__(self, site: CellSite, seconds: float, *, traced_first: bool) -> None:
        super().__init__(site)
        self._seconds = seconds
        self._traced_first = traced_first
        self._socket = site.folder / "control.sock"

    def alternate(self) -> list[Window]:
        """Run the cell and return its windows.

        :raises CellFailure: when a process ends by itself or the work is not done in time.
        """
        with self._stack:
            database = CellDatabase(self._site.address)
            self._stack.callback(database.close)
            self._start({SOCKET: str(self._socket), SAMPLER: "False"})
            self._wait_until_ready()
            database.warm_up()
            database.open_gate(None)
            return self._windows(database)

    def _windows(self, database: CellDatabase) -> list[Window]:
        """Switch until everything has ended."""
        found: list[Window] = []
        began = time.monotonic()
        while self._left(database, 0.0):
            self._check_alive()
            if time.monotonic() - began > self._site.timeout:
                raise CellFailure(f"not done after {self._site.timeout:g} s")
            # on off, off on, …; the first pair begins after the windows that are skipped
            second = (len(found) - SKIPPED) % 4 in (1, 2)
            found.append(self._window(database, traced=self._traced_first != second))
        return found

    def _window(self, database: CellDatabase, *, traced: bool) -> Window:
        start, cpu, before = time.monotonic(), self._cpu(), database.passed()
        folder = self._site.folder / "trace"
        self._ask(Request(do="on", directory=str(folder)) if traced else Request(do="status"))
        time.sleep(self._seconds)
        self._ask(Request(do="off" if traced else "status"))
        seconds, used = time.monotonic() - start, self._cpu() - cpu
        scheduled, queued, ended = (now - then for now, then in zip(database.passed(), before, strict=True))
        shutil.rmtree(folder, ignore_errors=True)
        return Window(traced, seconds, used, scheduled, queued, ended)

    def _ask(self, request: Request) -> None:
        answer = asyncio.run(ask(self._socket, request))
        if answer.error is not None or answer.tracing != (request.do == "on"):
            raise CellFailure(f"the scheduler did not obey {request.do!r}: {answer.error}")

    def _cpu(self) -> float:
        """Return the CPU seconds of the scheduler's process by its own clock, exact to a nanosecond."""
        clock = (~self._schedulers[0].pid << 3) | 2  # as clock_getcpuclockid(3) makes it
        return time.clock_gettime_ns(clock) / 1e9


class AlternatingBench(Bench):
    """A bench of such cells."""

    def alternate(self, key: CellKey, seconds: float) -> list[Window]:
        """Run one cell and return its windows; every second one begins with an untraced pair.

        :raises CellFailure: see :meth:`AlternatingCell.alternate`.
        """

        def run(site: CellSite) -> list[Window]:
            return AlternatingCell(site, seconds, traced_first=key.repeat % 2 == 1).alternate()

        return self._on_a_site(key, run)


def line(coupled: Sequence[tuple[Window, Window]]) -> str:
    """Return the estimate in words."""
    middle, low, high = (100 * (ratio - 1) for ratio in estimate(coupled))
    ratios = [traced.cost / plain.cost for traced, plain in coupled]
    return (
        f"{len(coupled)} pairs: {middle:+.2f} % ({low:+.2f} to {high:+.2f});"
        f" median {100 * (median(ratios) - 1):+.2f} %"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, add to the file, print."""
    parser = argparse.ArgumentParser(prog="python -m poc_bench.contention.alternation", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arm", default="redesigned")
    parser.add_argument("--size", default="dags=40,runs=20,tasks=250")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window (4)")
    options = parser.parse_args(arguments)
    server = EmbeddedPostgres()
    try:
        bench = AlternatingBench(server, options.out.parent, timeout=600.0)
        with bench:
            measure(bench, options)
    finally:
        server.close()


def measure(bench: AlternatingBench, options: argparse.Namespace) -> None:
    """Add runs to the file of the options, each as soon as it is over, and print the estimate."""
    workload = sized_list("layers", options.size, "defaults")[0]
    out: Path = options.out
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else _heading(options, workload.label)
    runs: list[list[dict[str, Any]]] = found["runs"]
    for repeat in range(len(runs) + 1, len(runs) + options.runs + 1):
        windows = bench.alternate(CellKey(workload, arm(options.arm), 0.0, 1, repeat, 1), options.seconds)
        runs.append([asdict(window) for window in windows])
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(f"run {repeat}: {line(pairs(windows))}", flush=True)  # noqa: T201
    print(line([pair for run in runs for pair in pairs([Window(**window) for window in run])]))  # noqa: T201


def _heading(options: argparse.Namespace, workload: str) -> dict[str, Any]:
    described = {**machine.description(), **machine.versions()}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "arm": options.arm,
        "workload": workload,
        "window_s": options.seconds,
        "machine": {name: str(value) for name, value in described.items()},
        "runs": [],
    }


if __name__ == "__main__":
    main()
