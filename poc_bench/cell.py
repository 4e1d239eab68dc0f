"""One cell of the matrix: schedulers of one arm, a workload, a database of their own; measured once."""

from __future__ import annotations

import json
import random
import signal
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from poc_bench.database.rows import CellDatabase, TaskInstanceRow
from poc_bench.errors import CellFailure
from poc_bench.executor import wire
from poc_bench.link.linked import LinkedDatabase
from poc_bench.observation import Observation
from poc_bench.probes.counters import counters_file
from poc_bench.probes.cpu import CpuMeter
from poc_bench.probes.driver import COUNTERS_DIRECTORY
from poc_bench.processes import Child, module
from poc_bench.profiler import Profiler
from poc_bench.workers import RealWorkers, SimulatedWorkers, Workers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poc_bench.database.address import Address
    from poc_bench.site import CellSite

POLL = 0.25
"""Seconds between two looks at the database. The end is read from the rows: this bounds only the harness."""
SAMPLE = 1.0
"""Seconds between two looks at who holds slots."""
READY_WITHIN = 300.0
SETTLED_AFTER, AT_SOME_POINT_WITHIN = 1.0, 0.25
"""Seconds from the first turn of all loops to the work: first statements are over and schedulers know each
other by then. Up to so much more by chance (of the seed), as schedulers look for work at regular times."""


class Cell:
    """Starts the processes of a cell, watches them, and takes everything down again."""

    def __init__(self, site: CellSite) -> None:
        self._site = site
        self._stack = ExitStack()
        self._schedulers: list[Child] = []
        self._link: LinkedDatabase | None = None
        self._workers: Workers

    def measure(self, settings: Mapping[str, str]) -> Observation:
        """Run the cell with *settings* put into the schedulers' environment.

        :raises CellFailure: when a process ends by itself or the work is not done in time.
        """
        with self._stack:
            began = time.monotonic()
            database = CellDatabase(self._site.address)
            self._stack.callback(database.close)
            self._start(settings)
            self._wait_until_ready()
            seconds_to_ready = time.monotonic() - began
            self._let_settle()
            if self._link is not None:
                self._link.verify()
            return self._observe(database, seconds_to_ready)

    def _start(self, settings: Mapping[str, str]) -> None:
        site = self._site
        for name in ("ready", "counters"):
            (site.folder / name).mkdir(parents=True)
        self._workers = RealWorkers(site) if site.key.executor == "local" else SimulatedWorkers(site)
        self._stack.callback(self._workers.process.end)
        self._workers.wait_until_ready()
        extra = {
            **settings,
            **self._workers.environment,  # real workers allow fewer task processes than a tuned setting may
            **site.key.arm.environment,
            wire.READY_DIRECTORY: str(site.folder / "ready"),
            COUNTERS_DIRECTORY: str(site.folder / "counters"),
        }
        environment = site.environment(extra, self._start_link() if site.key.rtt else None)
        for number in range(site.key.processes):
            child = Child(f"scheduler {number}", module(*site.key.arm.command), environment, site.folder)
            self._stack.callback(child.end, dump=signal.SIGUSR2)
            self._schedulers.append(child)

    def _start_link(self) -> Address:
        site = self._site
        self._link = LinkedDatabase(site.address, site.key.rtt, site.folder, site.environment({}))
        self._stack.callback(self._link.process.end)
        return self._link.address

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while len(list((self._site.folder / "ready").iterdir())) < self._site.key.processes:
            self._check_alive()
            if time.monotonic() > deadline:
                raise CellFailure(f"no scheduler loop after {READY_WITHIN:g} s")
            time.sleep(0.05)

    def _let_settle(self) -> None:
        chance = random.Random(f"{self._site.key.seed} {self._site.key.repeat}").random()
        time.sleep(SETTLED_AFTER + AT_SOME_POINT_WITHIN * chance)
        self._check_alive()

    def _children(self) -> list[Child]:
        return [*self._schedulers, self._workers.process, *([self._link.process] if self._link else [])]

    def _check_alive(self) -> None:
        for child in self._children():
            if child.exit_code is not None:
                raise CellFailure(f"{child.name} ended with exit code {child.exit_code}: {child.last_line()}")

    def _observe(self, database: CellDatabase, seconds_to_ready: float) -> Observation:
        profiler = self._profiler()
        database.warm_up()
        assistants = [child for child in self._children() if child not in self._schedulers]
        meter = CpuMeter(self._schedulers, assistants, self._site.server_pid, database.our_backends())
        opened = database.open_gate(self._site.plan.arrival_rate)
        samples, connections = self._watch(database)
        used = meter.read()
        peak = max(child.peak_rss_mib() for child in self._schedulers)
        profiles = profiler.stop() if profiler else []
        self._end_all()
        workers = self._workers.figures(database)
        return Observation(
            opened=opened,
            seconds_to_ready=seconds_to_ready,
            scheduler_cpu=used.schedulers,
            harness_cpu_share=used.harness / used.wall,
            server_cpu=used.server,
            foreign_cores=None if used.foreign is None else used.foreign / used.wall,
            peak_rss_mib=peak,
            connections=connections,
            samples=samples,
            runs=database.runs(),
            task_instances=database.task_instances(),
            earlier_tries=database.earlier_tries(),
            counters=[json.loads(file.read_text()) for file in (self._site.folder / "counters").iterdir()],
            workers=workers,
            server=database.server_statistics(),
            other_commits=self._other_commits(workers, database),
            link=self._link.figures() if self._link else None,
            profiles=[str(file) for file in profiles],
        )

    def _end_all(self) -> None:
        """End the schedulers and then what they depend on.

        :raises CellFailure: when a scheduler had to be ended by force, and so left no counts.
        """
        for child in self._schedulers:
            code = child.end(dump=signal.SIGUSR2)
            if not (self._site.folder / "counters" / counters_file(child.pid)).exists():
                raise CellFailure(
                    f"{child.name} left no counts: asked to end, it did so with exit code {code}: "
                    f"{child.last_line()}"
                )
        for child in self._children():
            child.end()

    def _other_commits(self, workers: dict[str, Any], database: CellDatabase) -> int | None:
        if workers["commits"] is None:
            return None
        return int(workers["commits"]) + database.commits + (self._link.connections if self._link else 0)

    def _profiler(self) -> Profiler | None:
        key = self._site.key
        if key.profile is None:
            return None
        profiler = Profiler(self._schedulers, key.profile, self._site.folder, key.name)
        self._stack.callback(profiler.stop)
        return profiler

    def _watch(self, database: CellDatabase) -> tuple[list[list[TaskInstanceRow]], int]:
        """Wait until everything has ended; return who held slots from time to time, and most connections."""
        samples: list[list[TaskInstanceRow]] = []
        connections = 0
        timeout = self._site.timeout
        began = next_sample = time.monotonic()
        while left := self._left(database, time.monotonic() - began):
            self._check_alive()
            if time.monotonic() - began > timeout:
                raise CellFailure(f"{left} of {self._site.plan.runs} runs had not ended after {timeout:g} s")
            if time.monotonic() >= next_sample:
                next_sample += SAMPLE
                samples.append(database.occupying())
                connections = max(connections, database.scheduler_connections() or 0)
            time.sleep(POLL)
        return samples, connections

    def _left(self, database: CellDatabase, watched_for: float) -> int:
        """Return how many runs have not ended; for an idle cell 1 until its time is up."""
        if self._site.plan.idle_seconds is not None:
            return int(watched_for < self._site.plan.idle_seconds)
        return database.unfinished_runs(self._site.plan.runs)


def measure_floor(site: CellSite) -> dict[str, float]:
    """Run :mod:`poc_bench.floor` on the cell's database; return task instances, seconds, server CPU seconds.

    :raises CellFailure: when it fails.
    """
    with ExitStack() as stack:
        address = site.address
        if site.key.rtt:
            link = LinkedDatabase(site.address, site.key.rtt, site.folder, site.environment({}))
            stack.callback(link.process.end)
            link.verify()
            address = link.address
        request, figures = site.folder / "floor.json", site.folder / "floor-figures.json"
        request.write_text(json.dumps({"url": address.sync_url, "figures": str(figures)}))
        meter = CpuMeter((), (), site.server_pid, ())
        floor = Child("floor", module("poc_bench.floor", str(request)), site.environment({}), site.folder)
        stack.callback(floor.end)
        if code := floor.wait(site.timeout):
            raise CellFailure(f"the floor ended with exit code {code}: {floor.last_line()}")
        found: dict[str, float] = json.loads(figures.read_text())
        return {**found, "server_cpu": meter.read().server or 0.0}
