"""The report of an experiment: the same work in several arms, measured in three modes that never mix.

*timing*: nothing is traced; wall and CPU seconds. *attribution*: traced, the server logs every lock wait.
*census*: the server explains every plan, so rows passed over are counted. *overhead*: the cost of tracing,
pair by pair. Each family of arms runs one algorithm concurrently, one routine after another, and on one
shared session.
"""

from __future__ import annotations

from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Literal

import msgspec

from async_scheduler.contention import questions
from async_scheduler.contention.building import build, load
from async_scheduler.contention.intervals import ratio
from async_scheduler.contention.questions import LOCK_KINDS, percent, question, unanswered
from async_scheduler.contention.reading import UnreadableTrace
from async_scheduler.contention.report import Answer, ArmFigures, HoldTime, Question, Report
from async_scheduler.measure.sqlstate import contention

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE = "contention.json"
SCHEMA = "async-scheduler-contention-experiment"
VERSION = 1

Mode = Literal["timing", "attribution", "census", "overhead"]


class RunRecord(msgspec.Struct, kw_only=True):
    """One run of the work. ``trace`` is its folder within the experiment's; ``items`` are tasks done."""

    arm: str
    mode: Mode
    rtt_ms: float
    schedulers: int
    repeat: int
    wall_s: float
    cpu_s: float
    items: int
    trace: str | None = None
    traced: bool = False
    sqlstates: dict[str, int] = {}
    transactions: int = 0
    correct: bool = True
    failure: str | None = None


class Family(msgspec.Struct, kw_only=True):
    """An algorithm in its arms."""

    name: str
    concurrent: str
    sequential: str
    shared: str | None = None


class Experiment(msgspec.Struct, kw_only=True):
    """Everything measured, as ``contention.json`` in the experiment's folder."""

    schema: str = SCHEMA
    version: int = VERSION
    created: str
    workload: str
    machine: dict[str, str]
    families: list[Family]
    reference: str | None = None
    runs: list[RunRecord] = []


def write(experiment: Experiment, directory: Path) -> None:
    """Write *experiment* into *directory*, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{FILE}.new"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(experiment), indent=1))
    temporary.replace(directory / FILE)


def read(directory: Path) -> Experiment:
    """Return the experiment in *directory*.

    :raises UnreadableTrace: when there is none that this version can read.
    """
    try:
        found = msgspec.json.decode((directory / FILE).read_bytes(), type=Experiment)
    except OSError as error:
        raise UnreadableTrace(f"{directory} holds no experiment: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UnreadableTrace(f"{directory / FILE} is damaged: {error}") from error
    if found.schema != SCHEMA or found.version != VERSION:
        raise UnreadableTrace(f"{directory / FILE} is of version {found.version}; this reads {VERSION}")
    return found


def reports(directory: Path) -> list[Report]:
    """Return a report for each family of the experiment in *directory*."""
    experiment = read(directory)
    return [FamilyView(experiment, family, directory).report() for family in experiment.families]


class FamilyView:
    """One family's runs, and what they say."""

    def __init__(self, experiment: Experiment, family: Family, directory: Path) -> None:
        self._experiment = experiment
        self._family = family
        self._directory = directory
        self._traced: dict[tuple[str, float, int, Mode], Report | None] = {}

    def report(self) -> Report:
        """Return the family's report: its concurrent arm's picture, its questions against the other arms."""
        found = self._concurrent or Report(title="")
        found.title = f"{self._family.name}: {self._experiment.workload}"
        found.labels = {"created": self._experiment.created, **self._experiment.machine}
        found.arms = self._arms()
        found.questions = [
            self._speed_up(),
            self._locks_against_gain(),
            questions.dominant_pairs(found),
            questions.other_victims(found),
            self._skipped(),
            self._failures(),
            self._holds(),
            self._scaling(),
            self._pool(),
            self._trust(found),
        ]
        found.verdict = self._verdict(found.questions)
        return found

    def _runs(self, arm: str, mode: Mode, rtt: float = 0.0, schedulers: int = 1) -> list[RunRecord]:
        return [
            run
            for run in self._experiment.runs
            if (run.arm, run.mode, run.rtt_ms, run.schedulers) == (arm, mode, rtt, schedulers)
            and run.correct
            and run.failure is None
        ]

    def _trace(self, arm: str, mode: Mode, rtt: float = 0.0, schedulers: int = 1) -> Report | None:
        key = (arm, rtt, schedulers, mode)
        if key not in self._traced:
            runs = [run for run in self._runs(arm, mode, rtt, schedulers) if run.trace]
            self._traced[key] = build(load(self._directory / str(runs[0].trace))) if runs else None
        return self._traced[key]

    @cached_property
    def _concurrent(self) -> Report | None:
        return self._trace(self._family.concurrent, "attribution")

    @cached_property
    def _sequential(self) -> Report | None:
        return self._trace(self._family.sequential, "attribution")

    def _rtts(self) -> list[float]:
        return sorted({run.rtt_ms for run in self._experiment.runs if run.mode == "timing"})

    def _schedulers(self) -> list[int]:
        return sorted({run.schedulers for run in self._experiment.runs if run.mode == "timing"})

    def _gain(self, arm: str, rtt: float, schedulers: int = 1) -> tuple[float, float, float] | None:
        """Return how many times as fast *arm* is as the sequential arm, repeat by repeat."""
        own = {run.repeat: run.wall_s for run in self._runs(arm, "timing", rtt, schedulers)}
        base = {run.repeat: run.wall_s for run in self._runs(self._family.sequential, "timing", rtt)}
        both = sorted(own.keys() & base.keys())
        return ratio([base[n] for n in both], [own[n] for n in both])

    def _arms(self) -> list[ArmFigures]:
        family = self._family
        names = [family.sequential, family.shared, family.concurrent, self._experiment.reference]
        return [
            figures
            for name in names
            if name is not None
            for rtt in self._rtts()
            for schedulers in self._schedulers()
            if (figures := self._arm(name, rtt, schedulers)) is not None
        ]

    def _arm(self, arm: str, rtt: float, schedulers: int) -> ArmFigures | None:
        runs = self._runs(arm, "timing", rtt, schedulers)
        if not runs:
            return None
        traced = self._trace(arm, "attribution", rtt, schedulers)
        items = max(run.items for run in runs)
        baseline = (self._family.sequential, 1)
        return ArmFigures(
            arm=arm,
            rtt_ms=rtt,
            schedulers=schedulers,
            repeats=len(runs),
            wall_s=[run.wall_s for run in runs],
            cpu_s=[run.cpu_s for run in runs],
            items=items,
            speed_up=self._gain(arm, rtt, schedulers) if (arm, schedulers) != baseline else None,
            lock_s_per_item=None if traced is None else lock_seconds(traced) / items,
            lock_share=None if traced is None else traced.lock_share,
            hold_median_ns=None if traced is None else typical_hold(traced.holds),
            failures_per_10k=_failure_rate(runs),
        )

    def _speed_up(self) -> Question:
        gains = {rtt: self._gain(self._family.concurrent, rtt) for rtt in self._rtts()}
        shown = {rtt: "{:.2f} ({:.2f}–{:.2f})".format(*gain) for rtt, gain in gains.items() if gain}
        at_zero = gains.get(0.0)
        if at_zero is None:
            return unanswered(1, "needs at least three timed repeats of both arms")
        answer: Answer = "objection wrong" if at_zero[1] > 1 else "objection right"
        gained = [rtt for rtt, gain in gains.items() if gain is not None and gain[1] > 1]
        if answer == "objection right" and gained:
            answer = "mixed"
        parts = [f"{rtt:g} ms: {text}" for rtt, text in shown.items() if rtt]
        detail = "; ".join([*parts, self._work_done()])
        return question(1, f"{shown[0.0]} at RTT 0", detail, answer)

    def _work_done(self) -> str:
        """Return what else differs between the arms: an arm that passes less often does less work."""
        arms = (self._family.concurrent, self._family.sequential)
        cpu = [median(run.cpu_s for run in self._runs(arm, "timing")) for arm in arms]
        text = f"CPU {cpu[0]:.2f} s against {cpu[1]:.2f} s"
        if self._concurrent is None or self._sequential is None:
            return text
        passes = [sum(r.passes for r in found.routines) for found in (self._concurrent, self._sequential)]
        return f"{text}, {passes[0]} passes against {passes[1]}"

    def _locks_against_gain(self) -> Question:
        concurrent, sequential = self._concurrent, self._sequential
        timed = [self._runs(arm, "timing") for arm in (self._family.sequential, self._family.concurrent)]
        if concurrent is None or sequential is None or not all(timed):
            return unanswered(2, "needs attribution and timing runs of both arms")
        saved = median(r.wall_s for r in timed[0]) - median(r.wall_s for r in timed[1])
        added = lock_seconds(concurrent) - lock_seconds(sequential)
        answer: Answer = "objection right" if added >= saved else "objection wrong"
        detail = (
            f"waiting for locks and connections: {percent(concurrent.lock_share)} of routine time"
            f" (sequential {percent(sequential.lock_share)}); waiting for the event loop:"
            f" {_loop_share(concurrent)} (sequential {_loop_share(sequential)})"
        )
        return question(2, f"{added:+.3f} lock-seconds for {saved:+.2f} s of wall time saved", detail, answer)

    def _overhead(self) -> tuple[float, float, float] | None:
        """Return the CPU of traced runs over that of their untraced neighbours."""
        runs = [run for run in self._experiment.runs if run.mode == "overhead" and run.correct]
        arm = self._family.concurrent
        on = {run.repeat: run.cpu_s for run in runs if run.arm == arm and run.traced}
        off = {run.repeat: run.cpu_s for run in runs if run.arm == arm and not run.traced}
        both = sorted(on.keys() & off.keys())
        return ratio([on[n] for n in both], [off[n] for n in both])

    def _trust(self, found: Report) -> Question:
        asked = questions.trust(found)
        cost = self._overhead()
        if cost is not None:
            middle, low, high = (100 * (value - 1) for value in cost)
            asked.detail += f"; the ledger costs {middle:+.1f} % CPU ({low:+.1f} to {high:+.1f})"
        return asked

    def _skipped(self) -> Question:
        census = self._trace(self._family.concurrent, "census")
        if census is not None:
            return questions.skipped_rows(census)
        if self._concurrent is not None:
            return questions.skipped_rows(self._concurrent)
        return unanswered(5, "needs a census run")

    def _failures(self) -> Question:
        rates = {
            arm: _failure_rate(self._runs(arm, "timing"))
            for arm in (self._family.concurrent, self._family.sequential)
        }
        own = rates[self._family.concurrent]
        if own is None:
            return unanswered(6, "needs timed runs")
        detail = "; ".join(f"{arm}: {rate:.2f}" for arm, rate in rates.items() if rate is not None)
        answer: Answer = "objection right" if own >= questions.FAILURES_TOO_MANY else "objection wrong"
        return question(6, f"{own:.2f} per 10,000", f"{detail}, at production settings", answer)

    def _holds(self) -> Question:
        if self._concurrent is None or self._sequential is None:
            return unanswered(7, "needs attribution runs of both arms")
        before = {hold.routine: hold for hold in self._sequential.holds}
        grown = {
            hold.routine: hold.median_ns / before[hold.routine].median_ns
            for hold in self._concurrent.holds
            if hold.routine in before and before[hold.routine].median_ns
        }
        worst = max(grown.values(), default=None)
        if worst is None:
            return unanswered(7, "no routine held locks in both arms")
        detail = "; ".join(f"{name} × {value:.2f}" for name, value in grown.items())
        loop = sum(hold.loop.high for hold in self._concurrent.holds if hold.loop is not None)
        total = sum(hold.total_ns for hold in self._concurrent.holds)
        detail += (
            f"; loop busy with others for at most {percent(loop / total if total else None)} of the holds"
        )
        answer: Answer = "objection right" if worst > 2 else "objection wrong"
        return question(7, f"× {worst:.2f} at worst", detail, answer)

    def _scaling(self) -> Question:
        gains = {n: self._gain(self._family.concurrent, 0.0, n) for n in self._schedulers()}
        shown = {n: gain for n, gain in gains.items() if gain is not None}
        if len(shown) < 2:
            return unanswered(8, "needs timed runs with more than one number of schedulers")
        figure = ", ".join(f"{n} scheduler(s): {gain[0]:.2f}" for n, gain in shown.items())
        ordered = [gain for _, gain in sorted(shown.items())]
        bends = ordered[-1][0] <= ordered[0][2]
        return question(
            8, figure, "against the sequential arm", "objection right" if bends else "objection wrong"
        )

    def _pool(self) -> Question:
        if self._concurrent is None:
            return unanswered(9, "needs an attribution run")
        waited = _kind_seconds(self._concurrent, "pool")
        wall = sum(r.wall_ns for r in self._concurrent.routines) / 1e9
        if not wall or waited / wall < questions.SHARE_WORTH_NAMING:
            return question(9, "nobody waits for a connection", f"{waited:.3f} s in all", "objection wrong")
        return question(9, f"{percent(waited / wall)} of routine time", f"{waited:.2f} s", "mixed")

    def _verdict(self, asked: Sequence[Question]) -> list[str]:
        by_number = {q.number: q for q in asked}
        lines = [
            f"Run at once instead of in turn, the routines are {by_number[1].figure} times as fast.",
            f"Locks: {by_number[2].figure}. Holds: {by_number[7].figure}.",
        ]
        right = [q.title for q in asked if q.answer == "objection right"]
        wrong = [q.title for q in asked if q.answer == "objection wrong"]
        lines.append(f"The objection is right on: {'; '.join(right) or 'nothing'}.")
        lines.append(f"It is wrong on: {'; '.join(wrong) or 'nothing'}.")
        return lines


def lock_seconds(report: Report) -> float:
    """Return the seconds that routines waited for database locks, the pool and in-process locks."""
    return sum(_kind_seconds(report, kind) for kind in LOCK_KINDS)


def _kind_seconds(report: Report, kind: str) -> float:
    return sum(r.categories[kind].middle for r in report.routines) / 1e9


def _loop_share(report: Report) -> str:
    wall = sum(r.wall_ns for r in report.routines)
    if not wall or not all(r.split for r in report.routines):
        return "–"
    low = sum(r.categories["loop wait"].low for r in report.routines) / wall
    high = sum(r.categories["loop wait"].high for r in report.routines) / wall
    return f"{percent(low)} to {percent(high)}"


def typical_hold(holds: Sequence[HoldTime]) -> float | None:
    """Return the median hold of the routine that holds most in total."""
    return max(holds, key=lambda hold: hold.total_ns).median_ns if holds else None


def _failure_rate(runs: Sequence[RunRecord]) -> float | None:
    """Return deadlocks and serialization failures per 10,000 transactions."""
    transactions = sum(run.transactions for run in runs)
    if not transactions:
        return None
    counted = [(code, count) for run in runs for code, count in run.sqlstates.items()]
    failed = sum(count for code, count in counted if contention(code) in ("deadlock", "serialization"))
    return 10_000 * failed / transactions
