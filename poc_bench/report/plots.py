"""The plots of the page, in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go

from poc_bench.arms import FLOOR
from poc_bench.report import bars, curves
from poc_bench.report.drawing import SPREAD_HEADER, Plot, Rows, laid_out, quoted, shown, whiskers
from poc_bench.report.names import full_name, names
from poc_bench.report.verdict import Comparison, Entry, entries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc_bench.record import RunRecord

Point = tuple[str, Entry, Comparison]
"""Arm as named on the page, what was measured, and how it compares with sync."""


def plots(runs: Sequence[tuple[str, RunRecord]]) -> list[Plot]:
    """Return every plot that the cells are enough for."""
    cells = quoted(runs)
    schedulers = [found for found in cells if found.cell.arm != FLOOR.name]
    drawn = (
        bars.throughput(schedulers),
        *(curves.throughput_against(*varied, schedulers) for varied in curves.VARIED),
        *(curves.latency(name, schedulers) for name in curves.LATENCIES),
        bars.cpu(schedulers),
        bars.statements(schedulers),
        bars.share_of_floor(cells),
        no_gain(runs),
    )
    return [plot for plot in drawn if plot is not None]


def no_gain(runs: Sequence[tuple[str, RunRecord]]) -> Plot | None:
    """Draw each arm's ratio to sync with its spread, those without a clear gain marked."""
    points = [
        (entry.arm if len(runs) == 1 else f"{entry.arm} · {label}", entry, comparison)
        for label, run in runs
        for entry in entries(run)
        if (comparison := entry.against("sync")) is not None
    ]
    if not points:
        return None
    points.sort(key=lambda point: point[2].ratio.median)
    rows: Rows = [
        (full_name(entry.position), arm, comparison.word, *shown(comparison.ratio))
        for arm, entry, comparison in points
    ]
    sentence = (
        "Each arm against the sync arm on the same work, pair by pair: left of the line or across it (red) "
        "there is no gain."
    )
    header = ("work", "arm", "verdict", *SPREAD_HEADER)
    return Plot("no-gain", "Where there is no gain", sentence, _forest(points), header, rows)


def _forest(points: Sequence[Point]) -> go.Figure:
    name = names(entry.position for _, entry, _ in points)
    drawn = go.Figure()
    for gain, shade in ((False, "#e45756"), (True, "#54a24b")):
        chosen = [point for point in points if (point[2].word == "better") == gain]
        trace = go.Scatter(
            name="better than sync" if gain else "no clear gain over sync",
            x=[comparison.ratio.median for _, _, comparison in chosen],
            y=[f"{arm}: {name[entry.position]}" for arm, entry, _ in chosen],
            error_x=whiskers([comparison.ratio for _, _, comparison in chosen]),
            mode="markers",
            marker={"color": shade, "size": 9},
        )
        drawn.add_trace(trace)
    drawn.add_vline(x=1, line_dash="dot")
    laid_out(drawn, x="times as good as sync (1 = the same)")
    drawn.update_xaxes(type="log")
    labels = [f"{arm}: {name[entry.position]}" for arm, entry, _ in points]
    drawn.update_yaxes(automargin=True, categoryorder="array", categoryarray=labels)
    drawn.update_layout(height=max(300, 24 * len(points) + 140))
    return drawn
