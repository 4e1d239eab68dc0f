"""Measures an experiment: the same work in every arm, in three modes on three servers, never mixed."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from async_scheduler.contention.experiment import Experiment, Family, Mode, RunRecord, write
from poc_bench import correctness, machine
from poc_bench.arms import arm as arm_named
from poc_bench.bench import Bench
from poc_bench.contention import server_log
from poc_bench.contention.servers import ExplainingPostgres, LoggingPostgres
from poc_bench.database.postgres import EmbeddedPostgres
from poc_bench.errors import CellFailure, UsageError
from poc_bench.figures import measure
from poc_bench.site import CellKey

if TYPE_CHECKING:
    from pathlib import Path

    from poc_bench.observation import Observation
    from poc_bench.workloads.model import Sized

TRACE = "AIRFLOW__ASYNC_SCHEDULER__TRACE_DIRECTORY"
LEVEL = "AIRFLOW__ASYNC_SCHEDULER__TRACE_LEVEL"

MODES: tuple[Mode, ...] = ("timing", "overhead", "attribution", "census")
SAMPLER = "AIRFLOW__ASYNC_SCHEDULER__TRACE_SAMPLER"
LEVELS: dict[Mode, str] = {"attribution": "steps", "census": "ledger", "overhead": "ledger"}
SERVERS: dict[Mode, Callable[[], EmbeddedPostgres | ExplainingPostgres]] = {
    "timing": EmbeddedPostgres,
    "attribution": LoggingPostgres,
    "census": ExplainingPostgres,
    "overhead": EmbeddedPostgres,
}
FAMILIES: dict[str, Family] = {
    "naive": Family(
        name="Airflow's own algorithm",
        concurrent="naive",
        sequential="naive-sequential",
        shared="naive-shared-session",
    ),
    "redesigned": Family(
        name="The redesigned algorithm", concurrent="redesigned", sequential="redesigned-sequential"
    ),
}
REFERENCE = "sync"

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``repeats`` are those of the timing runs; the other modes run once for each arm."""

    workload: Sized
    families: tuple[Family, ...]
    modes: tuple[Mode, ...] = MODES
    rtts: tuple[float, ...] = (0.0,)
    schedulers: tuple[int, ...] = (1,)
    repeats: int = 7
    seed: int = 1
    timeout: float = 300.0
    reference: str | None = REFERENCE

    def arms(self) -> list[str]:
        """Return the arms of all families, each once, and the reference."""
        named = [a for f in self.families for a in (f.sequential, f.shared, f.concurrent)]
        return list(dict.fromkeys(a for a in (*named, self.reference) if a is not None))

    def keys(self, mode: Mode) -> list[CellKey]:
        """Return the cells of *mode* in the order in which they are measured.

        Timed repeats are interleaved, the arms of each in an order drawn by chance, so that a drifting
        machine hits all arms alike.
        """
        chance = random.Random(self.seed)
        repeated = mode in ("timing", "overhead")
        found = []
        for repeat in range(1, (self.repeats if repeated else 1) + 1):
            for rtt in self.rtts if mode in ("timing", "attribution") else (0.0,):
                for schedulers in self.schedulers if mode == "timing" else (1,):
                    names = self._names(mode)
                    chance.shuffle(names)
                    found += [self._key(name, rtt, schedulers, repeat) for name in names]
        return found

    def _names(self, mode: Mode) -> list[str]:
        if mode == "overhead":
            return [family.concurrent for family in self.families for _ in range(2)]
        return [name for name in self.arms() if mode == "timing" or name != self.reference]

    def _key(self, name: str, rtt: float, schedulers: int, repeat: int) -> CellKey:
        return CellKey(self.workload, arm_named(name), rtt, schedulers, repeat, self.seed)


@dataclass
class Runner:
    """Measures a plan; what is done is on disk at any time, and Ctrl-C keeps it."""

    plan: Plan
    directory: Path
    report: Report
    experiment: Experiment = field(init=False)

    def __post_init__(self) -> None:
        described = {**machine.description(), **machine.versions()}
        self.experiment = Experiment(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            workload=self.plan.workload.label,
            machine={name: str(value) for name, value in described.items()},
            families=list(self.plan.families),
            reference=self.plan.reference,
        )

    def run(self) -> Experiment:
        """Measure everything.

        :raises UsageError: when a mode needs a server that is not installed here.
        """
        for mode in self.plan.modes:
            with _server(mode) as server, Bench(server, self.directory, self.plan.timeout) as bench:
                for key in self.plan.keys(mode):
                    self._add(self._measure(bench, server, key, mode))
        return self.experiment

    def _add(self, record: RunRecord) -> None:
        self.experiment.runs.append(record)
        write(self.experiment, self.directory)
        outcome = record.failure or f"{record.wall_s:.2f} s, {record.cpu_s:.2f} CPU s"
        place = f"RTT {record.rtt_ms:g} n{record.schedulers}"
        self.report(f"{record.mode:<12} {record.arm:<24} {place:<12} r{record.repeat}: {outcome}")

    def _measure(
        self, bench: Bench, server: EmbeddedPostgres | ExplainingPostgres, key: CellKey, mode: Mode
    ) -> RunRecord:
        record = _record(key, mode)
        logs = getattr(server, "logs", [])
        since = server_log.positions(logs)
        record.traced = mode in LEVELS and self._is_traced(record)
        folder = self.directory / self._trace_of(record)
        try:
            seen = bench.measure(key, _settings(mode, folder.absolute()) if record.traced else {})
        except CellFailure as failure:
            record.failure = str(failure)
            return record
        if record.traced and mode != "overhead":
            record.trace = self._trace_of(record)
            server_log.take(logs, since, folder)
        elif record.traced:
            shutil.rmtree(folder)
        _fill(record, key, seen)
        return record

    def _is_traced(self, record: RunRecord) -> bool:
        """Whether this run is traced: all of their mode, but only every second one of an overhead pair.

        Which of a pair comes first changes from pair to pair.
        """
        if record.mode != "overhead":
            return True
        before = [r for r in self.experiment.runs if (r.mode, r.arm) == ("overhead", record.arm)]
        second = len(before) % 2 == 1
        first_is_traced = record.repeat % 2 == 1
        return first_is_traced != second

    def _trace_of(self, record: RunRecord) -> str:
        return f"traces/{record.mode}-{record.arm}-rtt{record.rtt_ms:g}"


def _settings(mode: Mode, folder: Path) -> dict[str, str]:
    """Return what makes a scheduler write the trace of *mode*."""
    sampled = str(mode == "attribution")
    return {TRACE: str(folder), LEVEL: LEVELS[mode], SAMPLER: sampled}


@contextmanager
def _server(mode: Mode) -> Iterator[EmbeddedPostgres | ExplainingPostgres]:
    """Give the server that *mode* needs: as shipped, logging lock waits, or explaining plans."""
    server = SERVERS[mode]()
    try:
        yield server
    finally:
        server.close()


def _record(key: CellKey, mode: Mode) -> RunRecord:
    return RunRecord(
        arm=key.arm.name,
        mode=mode,
        rtt_ms=key.rtt,
        schedulers=key.schedulers,
        repeat=key.repeat,
        wall_s=0.0,
        cpu_s=0.0,
        items=0,
    )


def _fill(record: RunRecord, key: CellKey, seen: Observation) -> None:
    plan = key.workload.plan(key.seed)
    figures = measure(plan, seen).figures
    record.wall_s = round(figures["seconds"], 4)
    record.cpu_s = round(seen.scheduler_cpu, 3)
    record.items = len(seen.task_instances)
    record.sqlstates = dict(sum((Counter(c["sqlstates"]) for c in seen.counters), Counter()))
    record.transactions = round(figures["commits"] * record.items)
    wrong = correctness.violations(plan, seen)
    record.correct = not wrong
    if wrong:
        record.failure = f"wrong outcome: {wrong[0]}"


def families(names: str) -> tuple[Family, ...]:
    """Return the families of those names, separated by commas.

    :raises UsageError: for a name that is not one.
    """
    wanted = names.split(",")
    for name in wanted:
        if name not in FAMILIES:
            raise UsageError(f"There is no family {name!r}. There are: {', '.join(FAMILIES)}")
    return tuple(FAMILIES[name] for name in wanted)


def modes(names: str) -> tuple[Mode, ...]:
    """Return the modes of those names, separated by commas.

    :raises UsageError: for a name that is not one.
    """
    wanted = names.split(",")
    for name in wanted:
        if name not in MODES:
            raise UsageError(f"There is no mode {name!r}. There are: {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in wanted)
