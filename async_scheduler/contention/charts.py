"""The charts of the page as plotly figures in plain data; names are escaped for plotly's own small HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from async_scheduler.contention.report import CATEGORIES, HoldTime, Report, RoutineTime

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Figure = dict[str, Any]

COLOURS = {
    "cpu": "#0072b2",
    "loop wait": "#56b4e9",
    "pool": "#cc79a7",
    "network and execution": "#009e73",
    "commit": "#8c6d31",
    "database lock": "#d55e00",
    "in-process lock": "#e69f00",
    "other": "#bbbbbb",
    "unexplained": "#555555",
}
HOLD_COLOURS = {
    "executing in the database": "#009e73",
    "waiting for another lock": "#d55e00",
    "commit": "#8c6d31",
    "own CPU": "#0072b2",
    "loop busy with others": "#56b4e9",
    "the rest": "#bbbbbb",
}
LAYOUT: Figure = {
    "margin": {"l": 10, "r": 10, "t": 40, "b": 50},
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
}
LONGEST_NAME = 40


def plain(name: str) -> str:
    """Return *name* so that plotly shows it as it is."""
    return escape(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…", quote=False)


def matrix(report: Report) -> Figure | None:
    """Return the heat map waiter × root holder, in seconds waited; None when nobody waited."""
    if not report.pairs:
        return None
    waiters = _ordered((pair.waiter, pair.total_ns) for pair in report.pairs)
    holders = _ordered((pair.holder, pair.total_ns) for pair in report.pairs)
    seconds = [[0.0] * len(holders) for _ in waiters]
    counts = [[0] * len(holders) for _ in waiters]
    for pair in report.pairs:
        row, column = waiters.index(pair.waiter), holders.index(pair.holder)
        seconds[row][column] += pair.total_ns / 1e9
        counts[row][column] += pair.count
    heat = {
        "type": "heatmap",
        "x": [plain(name) for name in holders],
        "y": [plain(name) for name in waiters],
        "z": [[value or None for value in row] for row in seconds],
        "text": [
            [f"{s:.3g} s<br>{c} waits" if c else "" for s, c in zip(*rows, strict=True)]
            for rows in zip(seconds, counts, strict=True)
        ],
        "texttemplate": "%{text}",
        "hovertemplate": "%{y} waited for %{x}<br>%{text}<extra></extra>",
        "colorscale": [[0, "#fff5eb"], [0.5, "#fdae6b"], [1, "#d94801"]],
        "zmin": 0,
        "colorbar": {"title": {"text": "s"}},
    }
    axes = {
        "xaxis": {"title": {"text": "root holder"}, "automargin": True},
        "yaxis": {"title": {"text": "waiter"}, "automargin": True, "autorange": "reversed"},
    }
    return {"data": [heat], "layout": {**LAYOUT, **axes, "height": 160 + 45 * len(waiters)}}


def _ordered(named: Iterable[tuple[str, float]]) -> list[str]:
    totals: dict[str, float] = {}
    for name, value in named:
        totals[name] = totals.get(name, 0.0) + value
    return sorted(totals, key=lambda name: -totals[name])


def walls(report: Report) -> Figure | None:
    """Return the stacked wall time of each routine; what is only bounded is drawn at its middle."""
    if not report.routines:
        return None
    shown = report.routines[:12]
    parts = {c: [_share(r, c) for r in shown] for c in CATEGORIES}
    texts = {c: [_bounds(r, c) for r in shown] for c in CATEGORIES}
    return _stacked([r.routine for r in shown], parts, texts, COLOURS, "share of the routine's wall time, %")


def _share(routine: RoutineTime, category: str) -> float:
    return 100 * routine.categories[category].middle / routine.wall_ns if routine.wall_ns else 0.0


def _bounds(routine: RoutineTime, category: str) -> str:
    span = routine.categories[category]
    if span.high - span.low < 1e6:
        return f"{span.middle / 1e9:.3f} s"
    return f"{span.low / 1e9:.3f} to {span.high / 1e9:.3f} s"


def holds(report: Report) -> Figure | None:
    """Return what filled the time in which each routine held locks."""
    if not report.holds:
        return None
    shown = report.holds[:12]
    parts = {name: [_hold_parts(h)[name] / 1e9 for h in shown] for name in HOLD_COLOURS}
    texts = {name: [f"{value:.3f} s" for value in values] for name, values in parts.items()}
    return _stacked([h.routine for h in shown], parts, texts, HOLD_COLOURS, "seconds of lock holding")


def _hold_parts(hold: HoldTime) -> dict[str, float]:
    own = min(hold.own_cpu_ns or 0.0, hold.gaps_ns)
    loop = min(hold.loop.high if hold.loop is not None else 0.0, hold.gaps_ns - own)
    return {
        "executing in the database": hold.executing_ns,
        "waiting for another lock": hold.lock_wait_ns,
        "commit": hold.commit_ns,
        "own CPU": own,
        "loop busy with others": loop,
        "the rest": hold.gaps_ns - own - loop,
    }


def _stacked(
    names: Sequence[str],
    parts: dict[str, list[float]],
    texts: dict[str, list[str]],
    colours: dict[str, str],
    axis: str,
) -> Figure:
    bars = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "x": values,
            "y": [plain(name) for name in names],
            "customdata": texts[part],
            "hovertemplate": "%{y}<br>" + part + ": %{customdata}<extra></extra>",
            "marker": {"color": colours[part]},
        }
        for part, values in parts.items()
        if any(values)
    ]
    layout = {
        **LAYOUT,
        "barmode": "stack",
        "xaxis": {"title": {"text": axis}},
        "yaxis": {"autorange": "reversed", "automargin": True},
        "height": 170 + 28 * len(names),
    }
    return {"data": bars, "layout": layout}


def skips(report: Report) -> Figure | None:
    """Return rows got and passed over, and locks refused, per pass of each routine."""
    counts = [c for c in report.skips if c.passes and (c.claimed or c.refused or c.skipped)]
    if not counts:
        return None
    names = [c.routine for c in counts]
    parts = {
        "rows claimed": [c.claimed / c.passes for c in counts],
        "rows passed over": [(c.skipped or 0) / c.passes for c in counts],
        "locks refused": [c.refused / c.passes for c in counts],
    }
    colours = {"rows claimed": "#009e73", "rows passed over": "#d55e00", "locks refused": "#cc79a7"}
    texts = {name: [f"{value:.2f}" for value in values] for name, values in parts.items()}
    return _stacked(names, parts, texts, colours, "per pass")


def arms(report: Report) -> Figure | None:
    """Return the speed-up of each arm over its baseline by round-trip time, with its interval."""
    measured = [arm for arm in report.arms if arm.speed_up is not None]
    if not measured:
        return None
    traces = []
    for name in dict.fromkeys(f"{arm.arm}, {arm.schedulers} scheduler(s)" for arm in measured):
        own = sorted(
            (a for a in measured if f"{a.arm}, {a.schedulers} scheduler(s)" == name), key=lambda a: a.rtt_ms
        )
        ups = [a.speed_up for a in own if a.speed_up is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": plain(name),
                "x": [a.rtt_ms for a in own],
                "y": [up[0] for up in ups],
                "error_y": {
                    "type": "data",
                    "array": [up[2] - up[0] for up in ups],
                    "arrayminus": [up[0] - up[1] for up in ups],
                },
            }
        )
    one = {"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": 1, "y1": 1, "line": {"dash": "dot"}}
    layout = {
        **LAYOUT,
        "xaxis": {"title": {"text": "round trip to the database, ms"}},
        "yaxis": {
            "title": {"text": "speed-up over its sequential arm"},
            "rangemode": "tozero",
            "automargin": True,
        },
        "shapes": [one],
        "height": 420,
    }
    return {"data": traces, "layout": layout}
