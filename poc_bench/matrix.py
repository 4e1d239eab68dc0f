"""The cells of a run, in the order in which they are measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from poc_bench.arms import FLOOR, Arm
from poc_bench.site import CellKey, Executor, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poc_bench.workloads.model import Sized

PROFILES: tuple[Profile, ...] = ("speedscope", "flamegraph")


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is to be measured. Every combination is a cell; profiled cells come on top."""

    workloads: Sequence[Sized]
    arms: Sequence[Arm]
    rtts: Sequence[float] = (0.0,)
    schedulers: Sequence[int] = (1,)
    repeats: int = 1
    seed: int = 1
    executor: Executor = "bench"
    profile: bool = False

    def __len__(self) -> int:
        return sum(1 for _ in self.cells())

    def cells(self) -> Iterator[CellKey]:
        """Yield the cells: arms change fastest, so that a drifting machine hits all of them alike.

        A whole repeat comes before the next one, so that an interrupted run has something of everything. The
        floor comes first in each row that has one. Profiled cells come last.
        """
        for repeat in range(1, self.repeats + 1):
            yield from self._repeat(repeat)
        if self.profile:
            for form in PROFILES:
                for key in self._repeat(0):
                    if key.arm is not FLOOR:
                        yield replace(key, profile=form)

    def _repeat(self, repeat: int) -> Iterator[CellKey]:
        for workload in self.workloads:
            for rtt in self.rtts:
                for schedulers in self.schedulers:
                    if schedulers == self.schedulers[0] and self._has_floor(workload):
                        yield CellKey(workload, FLOOR, rtt, schedulers, repeat, self.seed, self.executor)
                    for arm in self.arms:
                        yield CellKey(workload, arm, rtt, schedulers, repeat, self.seed, self.executor)

    def _has_floor(self, workload: Sized) -> bool:
        """Whether all of the workload's rows exist beforehand and can all be written at once."""
        plan = workload.plan(self.seed)
        here_from_the_start = all(
            dag.created == "beforehand" and not any(task.mapped_over for task in dag.tasks)
            for dag in plan.dags
        )
        return here_from_the_start and plan.arrival_rate is None and plan.runs > 0
