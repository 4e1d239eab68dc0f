"""Measures an experiment: the same work in every arm, in three modes on three servers, never mixed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from async_scheduler.contention.experiment import FILE, Experiment, Mode, RunRecord, read, write
from poc_bench import correctness, machine
from poc_bench.contention import server_log
from poc_bench.contention.beside import AccompaniedBench
from poc_bench.contention.plan import REFERENCE, Job, Plan
from poc_bench.contention.servers import ExplainingPostgres, LoggingPostgres
from poc_bench.database.postgres import EmbeddedPostgres
from poc_bench.errors import CellFailure, UsageError
from poc_bench.figures import measure

if TYPE_CHECKING:
    from pathlib import Path

    from poc_bench.arms import Arm
    from poc_bench.bench import Bench
    from poc_bench.observation import Observation
    from poc_bench.site import CellKey

TRACE = "AIRFLOW__ASYNC_SCHEDULER__TRACE_DIRECTORY"
LEVEL = "AIRFLOW__ASYNC_SCHEDULER__TRACE_LEVEL"

UNTRACED: tuple[Mode, ...] = ("timing", "lanes")
SAMPLER = "AIRFLOW__ASYNC_SCHEDULER__TRACE_SAMPLER"
LANES = "AIRFLOW__ASYNC_SCHEDULER__VISITS_AT_ONCE"
LEVELS: dict[Mode, str] = {"attribution": "steps", "census": "ledger", "overhead": "ledger"}
SERVERS: dict[Mode, Callable[[], EmbeddedPostgres | ExplainingPostgres]] = {
    "timing": EmbeddedPostgres,
    "lanes": EmbeddedPostgres,
    "attribution": LoggingPostgres,
    "census": ExplainingPostgres,
    "overhead": EmbeddedPostgres,
}

Report = Callable[[str], None]


@dataclass
class Runner:
    """Measures a plan; what is done is on disk at any time, and Ctrl-C keeps it.

    :param adds: continue the experiment that lies in the directory: its repeats are counted on.
    """

    plan: Plan
    directory: Path
    report: Report
    adds: bool = False
    experiment: Experiment = field(init=False)

    def __post_init__(self) -> None:
        described = {**machine.description(), **machine.versions()}
        self.experiment = Experiment(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            workload=self.plan.workload.label,
            machine={name: str(value) for name, value in described.items()},
            families=list(self.plan.families),
            reference=self.plan.reference,
            beside=[*self.plan.beside, *(["api-server"] if self.plan.executor == "local" else [])],
        )
        if self.adds and (self.directory / FILE).exists():
            self._continue(read(self.directory))

    def _continue(self, earlier: Experiment) -> None:
        """Go on with *earlier*. Only the cost of tracing may be measured on other work.

        :raises UsageError: when anything else would be.
        """
        if earlier.workload != self.plan.workload.label and set(self.plan.modes) != {"overhead"}:
            raise UsageError(f"The experiment in {self.directory} has other work: {earlier.workload}")
        ours = {family.name: family for family in self.plan.families}
        earlier.families = [ours.pop(family.name, family) for family in earlier.families] + [*ours.values()]
        self.experiment = earlier

    def run(self) -> Experiment:
        """Measure everything.

        :raises UsageError: when a mode needs a server that is not installed here.
        """
        for mode in self.plan.modes:
            counted = max((r.repeat for r in self.experiment.runs if r.mode == mode), default=0)
            with (
                _server(mode) as server,
                AccompaniedBench(server, self.directory, self.plan.timeout, self.plan.beside) as bench,
            ):
                for job in self.plan.jobs(mode):
                    key = replace(job.key, repeat=job.key.repeat + counted)
                    self._add(self._measure(bench, server, replace(job, key=key)))
        return self.experiment

    def _add(self, record: RunRecord) -> None:
        self.experiment.runs.append(record)
        write(self.experiment, self.directory)
        outcome = record.failure or f"{record.wall_s:.2f} s, {record.cpu_s:.2f} CPU s"
        place = f"RTT {record.rtt_ms:g} n{record.schedulers}" + (f" l{record.lanes}" if record.lanes else "")
        self.report(f"{record.mode:<12} {record.arm:<24} {place:<14} r{record.repeat}: {outcome}")

    def _measure(self, bench: Bench, server: EmbeddedPostgres | ExplainingPostgres, job: Job) -> RunRecord:
        record = _record(job)
        record.workload = "" if job.key.workload.label == self.experiment.workload else job.key.workload.label
        logs = getattr(server, "logs", [])
        since = server_log.positions(logs)
        record.traced = job.mode not in UNTRACED and self._is_traced(record)
        folder = self.directory / self._trace_of(record)
        key = replace(job.key, arm=_traceable(job.key.arm)) if record.traced else job.key
        try:
            seen = bench.measure(key, _settings(job, folder.absolute(), traced=record.traced))
        except CellFailure as failure:
            record.failure = str(failure)
            return record
        if record.traced and job.mode != "overhead":
            record.trace = self._trace_of(record)
            server_log.take(logs, since, folder)
        elif record.traced:
            shutil.rmtree(folder)
        _fill(record, job.key, seen)
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
        return f"traces/{record.mode}-{record.arm}-rtt{record.rtt_ms:g}-n{record.schedulers}"


def _traceable(arm: Arm) -> Arm:
    """Return *arm* so that it can write a trace: the stock scheduler needs our ledger on its engine."""
    if arm.name != REFERENCE:
        return arm
    return replace(arm, command=("poc_bench.contention.stock", *arm.command[1:]))


def _settings(job: Job, folder: Path, *, traced: bool) -> dict[str, str]:
    """Return what makes a scheduler run with the job's lanes and write its trace."""
    lanes = {LANES: str(job.lanes)} if job.lanes is not None else {}
    if not traced:
        return lanes
    sampled = str(job.mode == "attribution")
    return {**lanes, TRACE: str(folder), LEVEL: LEVELS[job.mode], SAMPLER: sampled}


@contextmanager
def _server(mode: Mode) -> Iterator[EmbeddedPostgres | ExplainingPostgres]:
    """Give the server that *mode* needs: as shipped, logging lock waits, or explaining plans."""
    server = SERVERS[mode]()
    try:
        yield server
    finally:
        server.close()


def _record(job: Job) -> RunRecord:
    key = job.key
    return RunRecord(
        arm=key.arm.name,
        mode=job.mode,
        rtt_ms=key.rtt,
        schedulers=key.schedulers,
        repeat=key.repeat,
        wall_s=0.0,
        cpu_s=0.0,
        items=0,
        lanes=job.lanes,
    )


def _fill(record: RunRecord, key: CellKey, seen: Observation) -> None:
    plan = key.workload.plan(key.seed)
    figures = measure(plan, seen).figures
    record.wall_s = round(figures["seconds"], 4)
    record.cpu_s = round(seen.scheduler_cpu, 3)
    record.items = len(seen.task_instances)
    record.foreign_cores = None if seen.foreign_cores is None else round(seen.foreign_cores, 3)
    record.sqlstates = dict(sum((Counter(c["sqlstates"]) for c in seen.counters), Counter()))
    record.transactions = round(figures["commits"] * record.items)
    wrong = correctness.violations(plan, seen)
    record.correct = not wrong
    if wrong:
        record.failure = f"wrong outcome: {wrong[0]}"
