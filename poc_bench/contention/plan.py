"""What an experiment measures: families of arms, modes that are never mixed, and their runs in order."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_scheduler.contention.experiment import Family, Mode
from poc_bench.arms import arm as arm_named
from poc_bench.errors import UsageError
from poc_bench.site import CellKey, Executor

if TYPE_CHECKING:
    from poc_bench.workloads.model import Sized

MODES: tuple[Mode, ...] = ("timing", "lanes", "overhead", "attribution", "census")
REPEATED: tuple[Mode, ...] = ("timing", "lanes", "overhead")
FAMILIES: dict[str, Family] = {
    "naive": Family(
        name="Airflow's own algorithm",
        concurrent="naive",
        sequential="naive-sequential",
        shared="naive-shared-session",
        fixed="the number of routines at once cannot be varied here: each stage of Airflow's is one routine,"
        " and a scheduler refuses to start with fewer connections than it has stages",
    ),
    "redesigned": Family(
        name="The redesigned algorithm", concurrent="redesigned", sequential="redesigned-sequential"
    ),
}
REFERENCE = "sync"
WITH_LANES = ("redesigned",)
"""Arms in which the number of transactions that a routine has open at once can be set."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to be measured."""

    key: CellKey
    mode: Mode
    lanes: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``repeats`` are those of the untraced runs; the other modes run once for each arm.

    ``only`` restricts the arms of the families and the reference; ``lanes`` are for the mode of that name;
    ``beside`` are processes of Airflow that work on the same database meanwhile; with the executor ``local``
    real task processes and their API server do, too.
    """

    workload: Sized
    families: tuple[Family, ...]
    modes: tuple[Mode, ...] = MODES
    rtts: tuple[float, ...] = (0.0,)
    schedulers: tuple[int, ...] = (1,)
    repeats: int = 7
    seed: int = 1
    timeout: float = 300.0
    reference: str | None = REFERENCE
    lanes: tuple[int, ...] = (1, 2, 4, 8)
    only: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    executor: Executor = "bench"

    def arms(self) -> list[str]:
        """Return the arms of all families, each once, and the reference."""
        return [name for name in self._all_arms() if not self.only or name in self.only]

    def _all_arms(self) -> dict[str, None]:
        named = [a for f in self.families for a in (f.sequential, f.shared, f.concurrent)]
        return dict.fromkeys(a for a in (*named, self.reference) if a is not None)

    def refuse_unknown_arms(self) -> None:
        """See to it that ``only`` names arms of these families.

        :raises UsageError: for a name that is none.
        """
        for name in self.only:
            if name not in self._all_arms():
                raise UsageError(
                    f"There is no arm {name!r} in these families. There are: {', '.join(self._all_arms())}"
                )

    def jobs(self, mode: Mode) -> list[Job]:
        """Return the runs of *mode* in the order in which they are measured.

        Timed repeats are interleaved, the arms of each in an order drawn by chance, so that a drifting
        machine hits all arms alike.
        """
        chance = random.Random(self.seed)
        found = []
        for repeat in range(1, (self.repeats if mode in REPEATED else 1) + 1):
            for rtt in self.rtts if mode not in ("overhead", "census") else (0.0,):
                for schedulers in self.schedulers if mode not in ("overhead", "lanes") else (1,):
                    variants = self._variants(mode)
                    chance.shuffle(variants)
                    found += [
                        Job(self._key(name, rtt, schedulers, repeat), mode, lanes) for name, lanes in variants
                    ]
        return found

    def _variants(self, mode: Mode) -> list[tuple[str, int | None]]:
        concurrent = [f.concurrent for f in self.families if f.concurrent in self.arms()]
        if mode == "overhead":
            return [(name, None) for name in concurrent for _ in range(2)]
        if mode == "lanes":
            return [(name, lanes) for name in concurrent if name in WITH_LANES for lanes in self.lanes]
        return [(name, None) for name in self.arms()]

    def _key(self, name: str, rtt: float, schedulers: int, repeat: int) -> CellKey:
        return CellKey(self.workload, arm_named(name), rtt, schedulers, repeat, self.seed, self.executor)


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
