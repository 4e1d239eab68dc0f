"""Curves: throughput against one thing that varies, and latency distributions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from poc_bench.figures import PERCENTILES
from poc_bench.report.drawing import (
    SPREAD_HEADER,
    Plot,
    Quoted,
    arms_of,
    colour,
    laid_out,
    number,
    shown,
    spreads,
    whiskers,
)
from poc_bench.report.names import Position, full_name, names
from poc_bench.statistics import Spread

Split = Callable[[Quoted], tuple[tuple[Any, ...], float]]
"""Parts a cell into what stays the same along a curve, its workload first, and what varies."""

LATENCIES = {
    "queue_delay": "from the end of a task's last upstream task until it was queued",
    "run_close_delay": "from the end of a run's last task until the run was closed",
    "run_latency": "from the moment a run was due until it was closed",
}


def run_size(found: Quoted) -> tuple[tuple[Any, ...], float]:
    """Vary the task instances per run."""
    cell = found.cell
    return (cell.workload, cell.runs, cell.rtt, cell.schedulers), cell.task_instances / max(1, cell.runs)


def run_count(found: Quoted) -> tuple[tuple[Any, ...], float]:
    """Vary the number of runs that run at once."""
    cell = found.cell
    size = cell.task_instances / max(1, cell.runs)
    return (cell.workload, size, cell.rtt, cell.schedulers), cell.runs


def round_trip(found: Quoted) -> tuple[tuple[Any, ...], float]:
    """Vary the round-trip time."""
    return (found.cell.size, found.cell.schedulers), found.cell.rtt


def processes(found: Quoted) -> tuple[tuple[Any, ...], float]:
    """Vary the number of scheduler processes; an arm of two processes counts as such."""
    cell = found.cell
    return (cell.size, cell.rtt), cell.schedulers * int(found.run.arms[cell.arm]["processes"])


VARIED: tuple[tuple[str, str, str, Split], ...] = (
    ("size", "run size", "task instances per run", run_size),
    ("runs", "number of running runs", "runs at once", run_count),
    ("rtt", "round-trip time", "round-trip time to the database in ms", round_trip),
    ("schedulers", "number of schedulers", "scheduler processes", processes),
)


def throughput_against(name: str, what: str, axis: str, split: Split, cells: Sequence[Quoted]) -> Plot | None:
    """Draw throughput against *what*, everything else being equal."""
    lines: defaultdict[tuple[str, tuple[Any, ...]], list[tuple[float, Spread]]] = defaultdict(list)
    for (arm, same, x), spread in spreads(cells, "throughput", lambda q: (q.arm, *split(q))).items():
        lines[arm, same].append((x, spread))
    arms = arms_of(cells)
    drawn, rows = go.Figure(), []
    for (arm, same), points in lines.items():
        if len(points) > 1:
            points.sort(key=lambda point: point[0])
            label = f"{arm}, {str(same[0]).partition(':')[0]}"
            drawn.add_trace(_line(label, points, colour(arms, arm)))
            rows += [(arm, str(same[0]), number(x), *shown(spread)) for x, spread in points]
    if not rows:
        return None
    laid_out(drawn, x=axis, y="TI/s")
    drawn.update_yaxes(rangemode="tozero")
    sentence = f"Throughput against the {what}, everything else being equal: who falls off, and how fast."
    header = ("arm", "work", axis, *SPREAD_HEADER)
    return Plot(name, f"Throughput against {what}", sentence, drawn, header, list(rows))


def _line(label: str, points: Sequence[tuple[float, Spread]], shade: str) -> Any:
    return go.Scatter(
        name=label,
        x=[x for x, _ in points],
        y=[spread.median for _, spread in points],
        error_y=whiskers([spread for _, spread in points]),
        mode="lines+markers",
        line={"color": shade},
    )


def latency(name: str, cells: Sequence[Quoted]) -> Plot | None:
    """Draw the distribution of one latency; the work is chosen on the page."""
    curves: defaultdict[tuple[str, Position], list[list[float]]] = defaultdict(list)
    for found in cells:
        if name in found.cell.distributions:
            curves[found.arm, found.cell.position].append(found.cell.distributions[name])
    if not curves:
        return None
    arms, places = arms_of(cells), names(place for _, place in curves)
    first = next(iter(places))
    drawn, rows = go.Figure(), []
    for (arm, place), repeats in curves.items():
        middle = [Spread.of(values).median for values in zip(*repeats, strict=True)]
        drawn.add_trace(_distribution(arm, middle, colour(arms, arm), visible=place == first))
        rows.append((full_name(place), arm, *(number(middle[p]) for p in (50, 95, 99, 100))))
    chooser = _chooser(places, [place for _, place in curves])
    laid_out(drawn, x="seconds", y="percent of all", updatemenus=[chooser])
    sentence = (
        f"How long it took {LATENCIES[name]}: the further left a curve, the better; its upper end is the "
        "worst case. Choose the work at the top."
    )
    header = ("work", "arm", "p50", "p95", "p99", "max (all in s)")
    return Plot(name, f"Latency: {name.replace('_', ' ')}", sentence, drawn, header, sorted(rows))


def _distribution(arm: str, middle: Sequence[float], shade: str, visible: bool) -> Any:
    return go.Scatter(
        name=arm, x=middle, y=list(PERCENTILES), mode="lines", line={"color": shade}, visible=visible
    )


def _chooser(places: dict[Position, str], of_trace: Sequence[Position]) -> dict[str, Any]:
    buttons = [
        {"label": name, "method": "update", "args": [{"visible": [trace == place for trace in of_trace]}]}
        for place, name in places.items()
    ]
    return {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "buttons": buttons}
