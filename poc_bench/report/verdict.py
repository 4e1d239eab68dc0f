"""Who is better where, by how much and how surely. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from poc_bench.arms import FLOOR
from poc_bench.figures import FIGURES
from poc_bench.report.names import Position, names
from poc_bench.statistics import FEWEST, SMALLEST, Spread, paired_ratios

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from poc_bench.record import CellRecord, RunRecord

BASELINES = ("sync", "sync-tuned")
"""The arms that others are compared with."""
ENOUGH = 5
"""Repeats from which a figure may be quoted."""
BUSY = 0.25
"""Cores kept busy by other processes from which a cell's figures are doubtful."""

Word = Literal["better", "worse", "no clear difference", "too few repeats"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against a baseline, repeat by repeat. A ratio above 1 is better, whatever the figure."""

    baseline: str
    ratio: Spread

    @property
    def word(self) -> Word:
        """What may be said of it: all pairs have to be beyond 5 % on one side."""
        if self.ratio.count < FEWEST:
            return "too few repeats"
        if self.ratio.low > 1 + SMALLEST:
            return "better"
        if self.ratio.high < 1 - SMALLEST:
            return "worse"
        return "no clear difference"


@dataclass(frozen=True, slots=True)
class Entry:
    """One arm at one position of the matrix."""

    arm: str
    position: Position
    figure: str
    value: Spread | None
    comparisons: tuple[Comparison, ...]
    cells: int
    troubles: tuple[str, ...]
    """Why cells failed or were wrong."""

    def against(self, baseline: str) -> Comparison | None:
        """Return the comparison with *baseline*, if there is one."""
        return next((c for c in self.comparisons if c.baseline == baseline), None)


def entries(run: RunRecord) -> list[Entry]:
    """Return an entry for each position and arm, in the order in which they were measured."""
    groups: defaultdict[Position, defaultdict[str, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
    for cell in run.cells:
        if not cell.profiled:
            groups[cell.position][cell.arm].append(cell)
    return [
        _entry(run, position, arm, arms)
        for position, arms in groups.items()
        for arm in arms
        if arm != FLOOR.name
    ]


def _entry(run: RunRecord, position: Position, arm: str, arms: dict[str, list[CellRecord]]) -> Entry:
    figure = run.workloads[position[0]]["primary"]
    values = by_repeat(arms[arm], figure)
    return Entry(
        arm=arm,
        position=position,
        figure=figure,
        value=Spread.of([value for _, value in values]) if values else None,
        comparisons=tuple(
            Comparison(baseline, Spread.of(ratios))
            for baseline in BASELINES
            if baseline != arm
            and (ratios := _ratios(figure, values, by_repeat(arms.get(baseline, ()), figure)))
        ),
        cells=len(arms[arm]),
        troubles=tuple(trouble for cell in arms[arm] for trouble in troubles(cell)),
    )


def troubles(cell: CellRecord) -> list[str]:
    """Return what is wrong with a cell, one line each."""
    return [*([cell.failure] if cell.failure else []), *cell.violations, *cell.differences]


def by_repeat(cells: Iterable[CellRecord], figure: str) -> list[tuple[int, float]]:
    """Return (repeat, value) of the correct cells that have the figure."""
    return [(c.repeat, c.figures[figure]) for c in cells if c.correct and figure in c.figures]


def _ratios(
    figure: str, values: Sequence[tuple[int, float]], baseline: Sequence[tuple[int, float]]
) -> list[float]:
    if FIGURES[figure].better == "higher":
        return paired_ratios(values, baseline)
    return paired_ratios(baseline, values)


def remarks(run: RunRecord) -> list[str]:
    """Return what a reader must know before believing the figures."""
    lines = []
    cells = [cell for cell in run.cells if not cell.profiled]
    if run.interrupted:
        lines.append("The run was interrupted: some cells are missing.")
    if run.repeats < ENOUGH:
        lines.append(f"{run.repeats} repeat(s): figures from fewer than {ENOUGH} are not to be quoted.")
    if busy := [cell for cell in cells if (cell.foreign_cores or 0) > BUSY]:
        lines.append(
            f"The machine was overloaded: in {len(busy)} of {len(cells)} cells other processes kept more "
            f"than {BUSY:g} cores busy. Their figures are doubtful."
        )
    if wrong := [cell for cell in cells if not cell.correct]:
        count = f"{len(wrong)} of {len(cells)}"
        lines.append(f"{count} cells failed or did their work wrongly: they have no figures.")
    if alone := {
        c.size for c in cells if c.arm != FLOOR.name and c.failure is None and c.compared_with is None
    }:
        lines.append(f"No sync arm to compare end states with: {', '.join(sorted(alone))}.")
    return lines


def summary(arm: str, found: Sequence[Entry], baseline: str) -> str | None:
    """Return one sentence on where *arm* is better and worse than *baseline*, None without a comparison."""
    name = names(entry.position for entry in found)
    words: defaultdict[str, list[str]] = defaultdict(list)
    for entry in found:
        comparison = entry.against(baseline) if entry.arm == arm else None
        if comparison is not None:
            words[comparison.word].append(f"{name[entry.position]} ({comparison.ratio.median:.2f}×)")
    if not words:
        return None
    parts = [f"{word} on {', '.join(places)}" for word, places in words.items()]
    return f"{arm} against {baseline}: {'; '.join(parts)}."
