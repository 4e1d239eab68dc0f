"""What all plots share: how cells are grouped, named, coloured and drawn."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from poc_bench.statistics import Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poc_bench.record import CellRecord, RunRecord
    from poc_bench.report.names import Position

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#79706e")
SPREAD_HEADER = ("median", "lowest", "highest", "repeats")

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn figure with what it shows. ``rows`` are the raw figures."""

    name: str
    title: str
    sentence: str
    figure: Any
    header: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True, slots=True)
class Quoted:
    """A correct cell and the name its arm goes by on this page, with the run's label if there are several."""

    run: RunRecord
    arm: str
    cell: CellRecord


def quoted(runs: Sequence[tuple[str, RunRecord]]) -> list[Quoted]:
    """Return every cell whose figures may be used, of all runs."""
    return [
        Quoted(run, cell.arm if len(runs) == 1 else f"{cell.arm} · {label}", cell)
        for label, run in runs
        for cell in run.quotable
    ]


def spreads(cells: Iterable[Quoted], figure: str, key: Callable[[Quoted], Any]) -> dict[Any, Spread]:
    """Return the spread of *figure* for each key, in order of first appearance."""
    values: defaultdict[Any, list[float]] = defaultdict(list)
    for found in cells:
        if figure in found.cell.figures:
            values[key(found)].append(found.cell.figures[figure])
    return {name: Spread.of(found) for name, found in values.items()}


def by_arm_and_place(found: Quoted) -> tuple[str, Position]:
    """Return the key under which most plots group cells."""
    return found.arm, found.cell.position


def arms_of(cells: Iterable[Quoted]) -> list[str]:
    """Return the arms, in order of first appearance."""
    return list(dict.fromkeys(found.arm for found in cells))


def colour(arms: Sequence[str], arm: str) -> str:
    """Return the colour that *arm* has in every plot."""
    return COLOURS[arms.index(arm) % len(COLOURS)]


def number(value: float) -> str:
    """Return *value* with three digits that count, thousands kept whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown(spread: Spread) -> tuple[str, str, str, str]:
    """Return median, lowest, highest and count as texts."""
    return number(spread.median), number(spread.low), number(spread.high), str(spread.count)


def bars(spreads_of_arm: Sequence[Spread | None], name: str, places: Sequence[str], shade: str) -> Any:
    """Return the bars of one arm, with thin lines from the lowest to the highest repeat."""
    return go.Bar(
        name=name,
        x=[place.replace(", ", "<br>") for place in places],
        y=[spread.median if spread else None for spread in spreads_of_arm],
        error_y=whiskers(spreads_of_arm),
        marker_color=shade,
    )


def whiskers(found: Sequence[Spread | None]) -> dict[str, Any]:
    """Return the lines from the lowest to the highest value around each median."""
    return {
        "type": "data",
        "array": [spread.high - spread.median if spread else 0 for spread in found],
        "arrayminus": [spread.median - spread.low if spread else 0 for spread in found],
    }


def laid_out(figure: Any, x: str = "", y: str = "", **more: Any) -> Any:
    """Give *figure* the look of the page, and titles to its axes; return it."""
    figure.update_layout(
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        legend={"orientation": "h", "y": -0.2},
        height=420,
        **more,
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure
