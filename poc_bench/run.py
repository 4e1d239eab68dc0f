"""Measures a matrix and keeps the record of it, cell by cell."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from poc_bench import correctness, machine
from poc_bench.arms import FLOOR
from poc_bench.environment import FIXED
from poc_bench.errors import CellFailure
from poc_bench.figures import FIGURES, measure
from poc_bench.record import CellRecord, RunRecord
from poc_bench.referee import Referee
from poc_bench.tuning import GRID, Trial, Tuned, best

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poc_bench.bench import Bench
    from poc_bench.matrix import Matrix
    from poc_bench.observation import Observation
    from poc_bench.progress import Progress
    from poc_bench.site import CellKey


class Run:
    """One run: measures, judges and records each cell in turn.

    *tuned* holds settings found in an earlier run; what is missing is searched for.
    """

    def __init__(
        self, matrix: Matrix, bench: Bench, folder: Path, progress: Progress, tuned: list[Tuned] | None = None
    ) -> None:
        self._matrix = matrix
        self._bench = bench
        self._folder = folder
        self._progress = progress
        self._referee = Referee(arm.name for arm in matrix.arms)
        self._tuned = {(found.size, found.arm, found.rtt): found for found in tuned or ()}
        self.record = _empty_record(matrix, bench)

    def measure_all(self) -> None:
        """Measure every cell; what is done is on disk at any time.

        Ctrl-C ends it early: the cells that are done stay.
        """
        try:
            for key in self._matrix.cells():
                settings = self._tuned_settings(key) if key.arm.tuned else {}
                self._progress.begins(key)
                self._add(self._floor(key) if key.arm is FLOOR else self._measure(key, settings))
        except KeyboardInterrupt:
            self.record.interrupted = True
        self.record.write(self._folder)

    def _add(self, cell: CellRecord) -> None:
        self.record.cells.append(cell)
        self.record.write(self._folder)
        self._progress.ended(cell)

    def _measure(self, key: CellKey, settings: Mapping[str, str]) -> CellRecord:
        cell = _empty_cell(key, settings)
        try:
            seen = self._bench.measure(key, settings)
        except CellFailure as failure:
            cell.failure = str(failure)
            return cell
        self._fill(cell, key, seen)
        return cell

    def _fill(self, cell: CellRecord, key: CellKey, seen: Observation) -> None:
        plan = key.workload.plan(key.seed)
        measured = measure(plan, seen)
        cell.figures = {name: round(value, 6) for name, value in measured.figures.items()}
        cell.distributions = measured.distributions
        cell.runs, cell.task_instances = len(seen.runs), len(seen.task_instances)
        cell.violations = correctness.violations(plan, seen)
        cell.harness_cpu_share = round(seen.harness_cpu_share, 4)
        if key.executor != "local" and seen.foreign_cores is not None:
            cell.foreign_cores = round(seen.foreign_cores, 3)
        cell.link = seen.link
        cell.seconds_to_ready = round(seen.seconds_to_ready, 2)
        cell.sqlstates = dict(sum((Counter(c["sqlstates"]) for c in seen.counters), Counter()))
        cell.profiles = [f"profiles/{Path(file).name}" for file in seen.profiles]
        self._referee.judge(cell, correctness.end_state(seen.runs, seen.task_instances))

    def _floor(self, key: CellKey) -> CellRecord:
        cell = _empty_cell(key, {})
        try:
            found = self._bench.floor(key)
        except CellFailure as failure:
            cell.failure = str(failure)
            return cell
        cell.task_instances = int(found["task_instances"])
        cell.figures = {
            "throughput": round(cell.task_instances / found["seconds"], 2),
            "seconds": round(found["seconds"], 4),
            "server_cpu": round(found["server_cpu"] / cell.task_instances * 1000, 4),
        }
        return cell

    def _tuned_settings(self, key: CellKey) -> Mapping[str, str]:
        wanted = (key.workload.label, key.arm.name, key.rtt)
        if wanted not in self._tuned:
            self._tuned[wanted] = self._search(key)
        found = self._tuned[wanted]
        if found.recorded() not in self.record.tuned:
            self.record.tuned.append(found.recorded())
        return found.best

    def _search(self, key: CellKey) -> Tuned:
        """Measure each point of the grid once; these cells are not part of the figures."""
        figure = key.workload.workload.primary
        trials = []
        for number, settings in enumerate(GRID, start=1):
            self._progress.tries(key, number, len(GRID))
            cell = self._measure(replace(key, repeat=0, profile=None), settings)
            trials.append(Trial(settings, cell.figures[figure] if cell.correct else None))
        return Tuned(
            size=key.workload.label,
            arm=key.arm.name,
            rtt=key.rtt,
            figure=figure,
            trials=trials,
            best=best(trials, FIGURES[figure].better == "higher"),
        )


def _empty_cell(key: CellKey, settings: Mapping[str, str]) -> CellRecord:
    return CellRecord(
        workload=key.workload.workload.name,
        size=key.workload.label,
        arm=key.arm.name,
        rtt=key.rtt,
        schedulers=key.schedulers,
        repeat=key.repeat,
        settings=dict(settings),
        profiled=key.profile is not None,
        load_before=round(machine.load(), 2),
    )


def _empty_record(matrix: Matrix, bench: Bench) -> RunRecord:
    return RunRecord(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=matrix.seed,
        repeats=matrix.repeats,
        executor=matrix.executor,
        database=bench.database_description(),
        machine=machine.description(),
        versions=machine.versions(),
        arms={arm.name: asdict(arm) for arm in (FLOOR, *matrix.arms)},
        workloads={
            sized.label: {
                "name": sized.workload.name,
                "description": sized.workload.description,
                "parameters": dict(sized.parameters),
                "primary": sized.workload.primary,
                "runs": sized.plan(matrix.seed).runs,
                "task_instances": sized.plan(matrix.seed).task_instances,
            }
            for sized in matrix.workloads
        },
        fixed_environment=dict(FIXED),
    )
