"""Bars: throughput, CPU, statements, share of the floor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from poc_bench.arms import FLOOR
from poc_bench.figures import FIGURES
from poc_bench.report.drawing import (
    SPREAD_HEADER,
    Plot,
    Quoted,
    Rows,
    arms_of,
    bars,
    by_arm_and_place,
    colour,
    laid_out,
    shown,
    spreads,
)
from poc_bench.report.names import Position, full_name, names
from poc_bench.statistics import Spread

Shares = Mapping[tuple[str, Position], Spread]


def throughput(cells: Sequence[Quoted]) -> Plot | None:
    """Draw the throughput of every arm everywhere."""
    sentence = (
        "Task instances a second, from the first run queued to the last run closed, on all work that was "
        "measured: longer is better; the thin lines reach from the lowest to the highest repeat."
    )
    found = spreads(cells, "throughput", by_arm_and_place)
    return _grouped("throughput", "Throughput", sentence, found, arms_of(cells), FIGURES["throughput"].unit)


def share_of_floor(cells: Sequence[Quoted]) -> Plot | None:
    """Draw throughput as a share of what the database does without a scheduler."""
    floors = spreads(
        [q for q in cells if q.cell.arm == FLOOR.name],
        "throughput",
        lambda q: (id(q.run), q.cell.size, q.cell.rtt),
    )
    rest = [q for q in cells if q.cell.arm != FLOOR.name]
    run_of = {q.arm: id(q.run) for q in rest}
    shares = {
        (arm, place): spread.times(100 / floors[run_of[arm], place[0], place[1]].median)
        for (arm, place), spread in spreads(rest, "throughput", by_arm_and_place).items()
        if (run_of[arm], place[0], place[1]) in floors
    }
    sentence = (
        "Throughput as a share of what the database does when the same rows are written in batches with no "
        "decisions at all: the room that is left."
    )
    return _grouped("floor", "Share of the floor", sentence, shares, arms_of(rest), "% of the floor")


def cpu(cells: Sequence[Quoted]) -> Plot | None:
    """Draw the CPU of schedulers and of the server."""
    sentence = (
        "CPU seconds for 1,000 task instances, of the schedulers (left) and of the database server (right): "
        "a faster scheduler that burns more is no gain on a busy machine."
    )
    return _pair("cpu", "CPU", sentence, ("scheduler_cpu", "server_cpu"), cells)


def statements(cells: Sequence[Quoted]) -> Plot | None:
    """Draw statements and commits per task instance."""
    sentence = (
        "Statements and commits for one task instance: with a database far away, each costs a round trip."
    )
    return _pair("statements", "Statements", sentence, ("statements", "commits"), cells)


def _grouped(
    name: str, title: str, sentence: str, found: Shares, arms: Sequence[str], unit: str
) -> Plot | None:
    if not found:
        return None
    places = names(place for _, place in found)
    drawn = go.Figure()
    for arm in arms:
        of_arm = [found.get((arm, place)) for place in places]
        drawn.add_trace(bars(of_arm, arm, list(places.values()), colour(arms, arm)))
    laid_out(drawn, y=unit, barmode="group")
    rows: Rows = [(full_name(place), arm, *shown(spread)) for (arm, place), spread in found.items()]
    return Plot(name, title, sentence, drawn, ("work", "arm", *SPREAD_HEADER), sorted(rows))


def _pair(
    name: str, title: str, sentence: str, figures: tuple[str, str], cells: Sequence[Quoted]
) -> Plot | None:
    """Draw two figures side by side, each with axes of its own."""
    arms = arms_of(cells)
    drawn = go.Figure()
    rows: Rows = []
    for axis, figure in zip(("", "2"), figures, strict=True):
        found: Shares = spreads(cells, figure, by_arm_and_place)
        places = names(place for _, place in found)
        for arm in arms:
            of_arm = [found.get((arm, place)) for place in places]
            trace = bars(of_arm, arm, list(places.values()), colour(arms, arm))
            trace.update(xaxis=f"x{axis}", yaxis=f"y{axis}", legendgroup=arm, showlegend=not axis)
            drawn.add_trace(trace)
        rows += [(full_name(place), arm, figure, *shown(spread)) for (arm, place), spread in found.items()]
    if not rows:
        return None
    left, right = (f"{figure.replace('_', ' ')}, {FIGURES[figure].unit}" for figure in figures)
    laid_out(drawn, barmode="group")
    drawn.update_layout(
        xaxis={"domain": [0, 0.46]},
        xaxis2={"domain": [0.54, 1], "anchor": "y2"},
        yaxis={"title": left},
        yaxis2={"title": right, "anchor": "x2"},
    )
    return Plot(name, title, sentence, drawn, ("work", "arm", "figure", *SPREAD_HEADER), sorted(rows))
