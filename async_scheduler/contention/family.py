"""The report of one family of arms: what its concurrency gains, and what it costs, place by place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from async_scheduler.contention import comparison
from async_scheduler.contention.evidence import (
    Evidence,
    Place,
    database_seconds,
    lock_seconds,
    loop_share,
    typical_hold,
)
from async_scheduler.contention.experiment import read
from async_scheduler.contention.questions import percent, seconds
from async_scheduler.contention.report import ArmFigures, CellFigures, Question, Report

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from async_scheduler.contention.report import Pair


def reports(directory: Path) -> list[Report]:
    """Return a report for each family of the experiment in *directory*."""
    return [report for report, _ in _both(directory)]


def with_details(directory: Path) -> list[Report]:
    """Return the same, each followed by the traces in which somebody waited in the database."""
    return [shown for report, details in _both(directory) for shown in (report, *details)]


def _both(directory: Path) -> list[tuple[Report, list[Report]]]:
    experiment = read(directory)
    views = [FamilyView(Evidence(experiment, family, directory)) for family in experiment.families]
    return [(view.report(), view.details()) for view in views]


class FamilyView:
    """One family's runs, and what they say."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._family = evidence.family

    def report(self) -> Report:
        """Return the family's report: its concurrent arm's picture, its questions against the other arms."""
        evidence, family = self._evidence, self._family
        found = evidence.report(family.concurrent, "attribution") or Report(title="")
        beside = "".join(f", beside a {name}" for name in evidence.experiment.beside)
        found.title = f"{family.name}: {evidence.experiment.workload}{beside}"
        found.labels = {"created": evidence.experiment.created, **evidence.experiment.machine}
        found.arms = self._arms()
        found.cells = self._cells()
        cost = evidence.overhead()
        found.quality.overhead = None if cost is None else cost[0]
        found.questions = self._questions()
        found.verdict = verdict(found.questions)
        return found

    def details(self) -> list[Report]:
        """Return the reports of the concurrent arm's traces in which somebody waited in the database."""
        traced = self._evidence.traced(self._family.concurrent)
        return [r for where, r in traced if where != (0.0, 1) and any(p.layer == "database" for p in r.pairs)]

    def _questions(self) -> list[Question]:
        evidence = self._evidence
        return [
            comparison.speed_up(evidence),
            comparison.locks_against_gain(evidence),
            comparison.dominant_pair(evidence),
            comparison.other_victims(evidence),
            comparison.skipped(evidence),
            comparison.failures(evidence),
            comparison.holds(evidence),
            comparison.scaling(evidence),
            comparison.pool(evidence),
            comparison.trust(evidence),
        ]

    def _names(self) -> list[str]:
        family = self._family
        names = (family.sequential, family.shared, family.concurrent, self._evidence.experiment.reference)
        return [name for name in names if name is not None]

    def _arms(self) -> list[ArmFigures]:
        places = self._evidence.places("timing")
        found = [self._arm(name, where) for name in self._names() for where in places]
        return [figures for figures in found if figures is not None]

    def _arm(self, arm: str, where: Place) -> ArmFigures | None:
        evidence, (rtt, schedulers) = self._evidence, where
        runs = evidence.runs(arm, "timing", rtt, schedulers)
        if not runs:
            return None
        traced = evidence.report(arm, "attribution", rtt, schedulers)
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
            speed_up=evidence.gain(arm, rtt, schedulers) if (arm, schedulers) != baseline else None,
            lock_s_per_item=None if traced is None else lock_seconds(traced) / items,
            lock_share=None if traced is None else traced.lock_share,
            hold_median_ns=None if traced is None else typical_hold(traced.holds),
            failures_per_10k=comparison.failure_rate(runs),
        )

    def _cells(self) -> list[CellFigures]:
        return [
            self._cell(arm, where, report)
            for arm in self._names()
            for where, report in self._evidence.traced(arm)
        ]

    def _cell(self, arm: str, where: Place, report: Report) -> CellFigures:
        (run, *_) = self._evidence.runs(arm, "attribution", *where)
        quality = report.quality
        return CellFigures(
            arm=arm,
            rtt_ms=where[0],
            schedulers=where[1],
            wall_s=run.wall_s,
            waits=quality.waits,
            lock_s_per_item=lock_seconds(report) / run.items if run.items else 0.0,
            database_s_per_item=database_seconds(report) / run.items if run.items else 0.0,
            lock_share=report.lock_share,
            loop_share=loop_share(report),
            worst=worst_pair(report.pairs),
            hold_median_ns=typical_hold(report.holds),
            refused=sum(count.refused for count in report.skips),
            attributed=quality.attributed_share,
            unexplained=quality.unexplained,
            sampler_share=quality.sampler_share,
            sampler_cpu_share=quality.sampler_total,
        )


def worst_pair(pairs: Sequence[Pair]) -> str:
    """Return who waited longest for whom in the database, and on what."""
    database = [pair for pair in pairs if pair.layer == "database"]
    if not database:
        return ""
    pair = max(database, key=lambda p: p.total_ns)
    table = next(iter(pair.tables), "?")
    total = sum(p.total_ns for p in database)
    return (
        f"{pair.waiter} ← {pair.holder} on {table}: {percent(pair.total_ns / total)} of {seconds(total)},"
        f" longest {seconds(pair.max_ns)}"
    )


def verdict(asked: Sequence[Question]) -> list[str]:
    """Return the answers in plain words."""
    by_number = {q.number: q for q in asked}
    lines = [
        f"Run at once instead of in turn, the routines are {by_number[1].figure} times as fast.",
        f"Locks: {by_number[2].figure}. Holds: {by_number[7].figure}.",
    ]
    for answer, said in (("right", "right on"), ("wrong", "wrong on")):
        titles = [q.title for q in asked if q.answer == f"objection {answer}"]
        lines.append(f"The objection is {said}: {'; '.join(titles) or 'nothing'}.")
    return lines
