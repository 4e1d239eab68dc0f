"""What changed between two runs. Pure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from poc_bench.arms import FLOOR
from poc_bench.figures import FIGURES
from poc_bench.report.verdict import by_repeat, troubles
from poc_bench.statistics import Spread, beyond_noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poc_bench.record import CellRecord, RunRecord
    from poc_bench.report.names import Position

WATCHED = ("scheduler_cpu", "server_cpu", "statements", "queue_delay_p95", "run_close_delay_p99", "peak_rss")
"""Figures that are compared beside the workload's own."""

Verdict = Literal["better", "worse", "same", "too few repeats", "now fails"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one arm at one position, before and after. A cell that now fails has no *after*."""

    position: Position
    arm: str
    figure: str
    before: Spread
    after: Spread | None
    verdict: Verdict
    remark: str = ""

    @property
    def relative(self) -> float | None:
        """By how much the median changed: 0.1 is 10 % more."""
        if self.after is None or self.before.median == 0:
            return None
        return self.after.median / self.before.median - 1


def changes(before: RunRecord, after: RunRecord) -> list[Change]:
    """Return a change for each figure that both runs have, and one for each cell that now fails."""
    old, new = _grouped(before), _grouped(after)
    return [
        change
        for (position, arm), cells in old.items()
        if (position, arm) in new
        for change in _changes(before, position, arm, cells, new[position, arm])
    ]


def _grouped(run: RunRecord) -> dict[tuple[Position, str], list[CellRecord]]:
    groups: defaultdict[tuple[Position, str], list[CellRecord]] = defaultdict(list)
    for cell in run.cells:
        if not cell.profiled and cell.arm != FLOOR.name:
            groups[cell.position, cell.arm].append(cell)
    return dict(groups)


def _changes(
    run: RunRecord, position: Position, arm: str, before: Sequence[CellRecord], after: Sequence[CellRecord]
) -> Iterator[Change]:
    primary = run.workloads[position[0]]["primary"]
    for figure in dict.fromkeys((primary, *WATCHED)):
        old = [value for _, value in by_repeat(before, figure)]
        new = [value for _, value in by_repeat(after, figure)]
        if old and figure == primary and (trouble := _new_trouble(before, after)):
            yield Change(position, arm, figure, Spread.of(old), None, "now fails", trouble)
        elif old and new:
            verdict = _verdict(figure, old, new)
            yield Change(position, arm, figure, Spread.of(old), Spread.of(new), verdict)


def _new_trouble(before: Sequence[CellRecord], after: Sequence[CellRecord]) -> str | None:
    if any(not cell.correct for cell in before):
        return None
    return next((trouble for cell in after for trouble in troubles(cell)), None)


def _verdict(figure: str, before: Sequence[float], after: Sequence[float]) -> Verdict:
    differs = beyond_noise(before, after)
    if differs is None:
        return "too few repeats"
    if not differs:
        return "same"
    rose = Spread.of(after).median > Spread.of(before).median
    return "better" if rose == (FIGURES[figure].better == "higher") else "worse"
