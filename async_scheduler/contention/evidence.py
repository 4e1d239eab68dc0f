"""What was measured of one family of arms: its runs, its traces, and what one arm gains over another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_scheduler.contention.building import build, load
from async_scheduler.contention.intervals import ratio
from async_scheduler.contention.questions import LOCK_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from async_scheduler.contention.experiment import Experiment, Family, Mode, RunRecord
    from async_scheduler.contention.report import HoldTime, Report

Gain = tuple[float, float, float]
"""How many times as fast, and the 95 % interval."""
Place = tuple[float, int]
"""Round-trip time in milliseconds, number of schedulers."""
PRODUCTION: tuple[Mode, ...] = ("timing", "lanes", "overhead")
"""The modes in which the server is set as it would be in production."""


class Evidence:
    """The runs of one family in an experiment. Runs that failed or were wrong are not evidence."""

    def __init__(self, experiment: Experiment, family: Family, directory: Path) -> None:
        self.experiment = experiment
        self.family = family
        self._directory = directory
        self._reports: dict[tuple[str, Mode, float, int], Report | None] = {}

    def runs(
        self, arm: str, mode: Mode, rtt: float = 0.0, schedulers: int = 1, lanes: int | None = None
    ) -> list[RunRecord]:
        """Return the runs of *arm* with the experiment's own workload."""
        return [
            run
            for run in self._good()
            if (run.arm, run.mode, run.rtt_ms, run.schedulers, run.lanes)
            == (arm, mode, rtt, schedulers, lanes)
            and not run.workload
        ]

    def _good(self) -> Iterable[RunRecord]:
        return (run for run in self.experiment.runs if run.correct and run.failure is None)

    def at_production_settings(self, arm: str) -> list[RunRecord]:
        """Return every run of *arm* that was neither logged nor explained, whatever its place."""
        return [run for run in self._good() if run.arm == arm and run.mode in PRODUCTION]

    def report(self, arm: str, mode: Mode, rtt: float = 0.0, schedulers: int = 1) -> Report | None:
        """Return what the trace of *arm* at that place says, None when there is none."""
        key = (arm, mode, rtt, schedulers)
        if key not in self._reports:
            traced = [run for run in self.runs(arm, mode, rtt, schedulers) if run.trace]
            self._reports[key] = self._build(traced[0]) if traced else None
        return self._reports[key]

    def _build(self, run: RunRecord) -> Report:
        title = f"{run.arm}: {place((run.rtt_ms, run.schedulers))}, {run.mode}"
        return build(load(self._directory / str(run.trace)), title=title)

    def places(self, mode: Mode) -> list[Place]:
        """Return where *mode* was measured, nearest first."""
        names = (self.family.concurrent, self.family.sequential)
        return sorted({(r.rtt_ms, r.schedulers) for r in self._good() if r.mode == mode and r.arm in names})

    def traced(self, arm: str, mode: Mode = "attribution") -> list[tuple[Place, Report]]:
        """Return the reports of *arm* at every place where it was traced."""
        found = [(where, self.report(arm, mode, *where)) for where in self.places(mode)]
        return [(where, report) for where, report in found if report is not None]

    def gain(self, arm: str, rtt: float, schedulers: int = 1) -> Gain | None:
        """Return how many times as fast *arm* is as one sequential scheduler, repeat by repeat."""
        return speed_up(
            self.runs(arm, "timing", rtt, schedulers), self.runs(self.family.sequential, "timing", rtt)
        )

    def lanes(self) -> list[int]:
        """Return the numbers of lanes that were timed."""
        return sorted({r.lanes for r in self._good() if r.lanes and r.arm == self.family.concurrent})

    def lane_gain(self, lanes: int, rtt: float) -> Gain | None:
        """Return how many times as fast so many lanes are as one."""
        arm = self.family.concurrent
        return speed_up(
            self.runs(arm, "lanes", rtt, lanes=lanes), self.runs(arm, "lanes", rtt, lanes=self.lanes()[0])
        )

    def overhead(self) -> tuple[Gain, int] | None:
        """Return the CPU of traced runs over that of their untraced neighbours, and how many pairs."""
        arm = self.family.concurrent
        runs = [run for run in self._good() if run.mode == "overhead" and run.arm == arm]
        on = {run.repeat: run.cpu_s for run in runs if run.traced}
        off = {run.repeat: run.cpu_s for run in runs if not run.traced}
        both = sorted(on.keys() & off.keys())
        found = ratio([on[n] for n in both], [off[n] for n in both])
        return None if found is None else (found, len(both))


def speed_up(runs: Iterable[RunRecord], base: Iterable[RunRecord]) -> Gain | None:
    """Return how many times as fast *runs* are as those of *base* with the same number."""
    own = {run.repeat: run.wall_s for run in runs}
    slow = {run.repeat: run.wall_s for run in base}
    both = sorted(own.keys() & slow.keys())
    return ratio([slow[n] for n in both], [own[n] for n in both])


def place(where: Place) -> str:
    """Return where something was measured, for people."""
    rtt, schedulers = where
    return f"RTT {rtt:g} ms" + ("" if schedulers == 1 else f", {schedulers} schedulers")


def lock_seconds(report: Report) -> float:
    """Return the seconds that routines waited for database locks, the pool and in-process locks."""
    return sum(kind_seconds(report, kind) for kind in LOCK_KINDS)


def kind_seconds(report: Report, kind: str) -> float:
    """Return the seconds that routines spent in one category of wall time."""
    return sum(r.categories[kind].middle for r in report.routines) / 1e9


def database_seconds(report: Report) -> float:
    """Return the seconds that anybody, other processes too, waited for locks of the database."""
    return sum(pair.total_ns for pair in report.pairs if pair.layer == "database") / 1e9


def loop_share(report: Report) -> tuple[float, float] | None:
    """Return which share of routine time was spent waiting for the event loop: at least, at most."""
    wall = sum(r.wall_ns for r in report.routines)
    if not wall or not all(r.split for r in report.routines):
        return None
    spans = [r.categories["loop wait"] for r in report.routines]
    return sum(s.low for s in spans) / wall, sum(s.high for s in spans) / wall


def typical_hold(holds: Sequence[HoldTime]) -> float | None:
    """Return the median hold of the routine that holds most in total."""
    return max(holds, key=lambda hold: hold.total_ns).median_ns if holds else None
