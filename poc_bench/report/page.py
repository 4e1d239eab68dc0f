"""The page: one HTML file that needs no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from plotly.offline import get_plotlyjs

from poc_bench.report.drawing import Plot, number
from poc_bench.report.names import full_name, names
from poc_bench.report.plots import plots
from poc_bench.report.verdict import (
    BASELINES,
    Entry,
    entries,
    remarks,
    summary,
    troubles,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from poc_bench.record import RunRecord
    from poc_bench.statistics import Spread

FILE = "report.html"

LEGEND = (
    "Medians of all repeats; in brackets lowest and highest. × is how many times as good as the sync arm and "
    "as sync-tuned, repeat by repeat: median (lowest to highest). Green and red: all repeats agree, by more "
    "than 5 %."
)
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: auto; max-width: 1100px; padding: 1rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .3rem; } p { max-width: 75ch; }
table { border-collapse: collapse; font-size: .875rem; } .scroll { overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { position: sticky; top: 0; background: #f6f6f6; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.better { background: #e3f4e1; } td.worse { background: #fbe3e1; } td.failed { background: #f8c9c5; }
.remark { background: #fff3cd; padding: .5rem .8rem; border-left: 4px solid #e0a800; }
small { color: #666; } details { margin: .3rem 0; } summary { cursor: pointer; color: #2457a6; }
pre { white-space: pre-wrap; font-size: .8rem; }
"""


def write_page(runs: Sequence[tuple[str, RunRecord]], folder: Path) -> Path:
    """Write the page of *runs* (label, run) into *folder* and return its file."""
    file = folder / FILE
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(page(runs), encoding="utf-8")
    return file


def page(runs: Sequence[tuple[str, RunRecord]]) -> str:
    """Return the page as text."""
    body = [
        "<h1>Airflow schedulers side by side</h1>",
        *(_verdict(label, run, several=len(runs) > 1) for label, run in runs),
        *(_plot(plot) for plot in plots(runs)),
        *(_details(label, run) for label, run in runs),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Airflow schedulers side by side</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(body)}</body></html>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of plain texts."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{lines}</table></div>'


def _verdict(label: str, run: RunRecord, several: bool) -> str:
    found = entries(run)
    arms = list(dict.fromkeys(entry.arm for entry in found))
    sentences = [
        sentence
        for arm in arms
        for baseline in BASELINES
        if arm != baseline and (sentence := summary(arm, found, baseline))
    ]
    title = f"The verdict{f': {escape(label)}' if several else ''}"
    return "".join(
        (
            f"<h2>{title}</h2>",
            f"<p><small>{escape(_conditions(run))}</small></p>",
            *(f'<p class="remark">{escape(remark)}</p>' for remark in remarks(run)),
            _verdict_table(found, arms),
            f"<p><small>{LEGEND}</small></p>",
            *(f"<p>{escape(sentence)}</p>" for sentence in sentences),
        )
    )


def _conditions(run: RunRecord) -> str:
    machine = run.machine
    return (
        f"{run.created}, {run.repeats} repeat(s), {run.executor} executor, {run.database['kind']} "
        f"{run.database['version']}, Airflow {run.versions.get('apache-airflow-core', '?')}, Python "
        f"{run.versions['python']}, {machine['cores']} cores of {machine['cpu']}, "
        f"{machine['memory_gib']} GiB, seed {run.seed}"
    )


def _verdict_table(found: Sequence[Entry], arms: Sequence[str]) -> str:
    name = names(entry.position for entry in found)
    by_place: dict[object, dict[str, Entry]] = {}
    for entry in found:
        by_place.setdefault(entry.position, {})[entry.arm] = entry
    head = "".join(f"<th>{escape(arm)}</th>" for arm in arms)
    rows = []
    for of_arm in by_place.values():
        first = next(iter(of_arm.values()))
        work = f"{escape(name[first.position])}<br><small>{escape(first.figure)}</small>"
        rows.append(f"<tr><td>{work}</td>{''.join(_verdict_cell(of_arm.get(arm)) for arm in arms)}</tr>")
    return f'<div class="scroll"><table><tr><th>Work</th>{head}</tr>{"".join(rows)}</table></div>'


def _verdict_cell(entry: Entry | None) -> str:
    if entry is None:
        return "<td></td>"
    if entry.troubles:
        why = escape("\n".join(entry.troubles[:20]))
        return (
            f'<td class="failed" title="{why}">failed<br><small>{escape(entry.troubles[0][:80])}</small></td>'
        )
    if entry.value is None:
        return "<td></td>"
    value = entry.value
    lines = [f"<b>{number(value.median)}</b> <small>{_reach(value, number)}</small>"]
    style = "number"
    for comparison in entry.comparisons:
        ratio = comparison.ratio
        reach = _reach(ratio, "{:.2f}".format)
        lines.append(f"<small>{ratio.median:.2f}× {comparison.baseline} {reach}</small>")
        if comparison.baseline == BASELINES[0] and comparison.word in ("better", "worse"):
            style = f"number {comparison.word}"
    return f'<td class="{style}">{"<br>".join(lines)}</td>'


def _reach(spread: Spread, written: Callable[[float], str]) -> str:
    """Return lowest and highest in brackets, nothing for a single value."""
    return f"({written(spread.low)}–{written(spread.high)})" if spread.count > 1 else ""


def _plot(plot: Plot) -> str:
    drawn = plot.figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{plot.name}")
    return (
        f'<section class="plot"><h2>{escape(plot.title)}</h2><p>{escape(plot.sentence)}</p>{drawn}'
        f"<details><summary>Raw figures</summary>{table(plot.header, plot.rows)}</details></section>"
    )


def _details(label: str, run: RunRecord) -> str:
    workloads = [
        (size, str(found["description"]), number(found["runs"]), number(found["task_instances"]))
        for size, found in run.workloads.items()
    ]
    arms = [
        (name, str(found["description"]), " ".join(found["command"]), str(found["processes"]))
        for name, found in run.arms.items()
    ]
    parts = [
        f"<h2>How it was measured: {escape(label)}</h2>",
        table(("workload", "what it is", "runs", "task instances"), workloads),
        table(("arm", "what it is", "command", "processes"), arms),
        _tuned(run),
        _cells(run),
        _profiles(run),
    ]
    return "".join(parts)


def _tuned(run: RunRecord) -> str:
    rows = [
        (
            f"{found['arm']}: {found['size']}, RTT {found['rtt']:g}",
            _settings(trial["settings"]),
            "failed" if trial["value"] is None else f"{number(trial['value'])} {found['figure']}",
            "taken" if trial["settings"] == found["best"] else "",
        )
        for found in run.tuned
        for trial in found["trials"]
    ]
    if not rows:
        return ""
    found_table = table(("arm and work", "settings", "result", ""), rows)
    return f"<details><summary>The search for the best settings</summary>{found_table}</details>"


def _settings(settings: dict[str, str]) -> str:
    return ", ".join(f"{name.rpartition('__')[2].lower()}={value}" for name, value in settings.items())


def _cells(run: RunRecord) -> str:
    figures = list(dict.fromkeys(name for cell in run.cells for name in cell.figures))
    header = ("work", "arm", "repeat", "verdict", "other processes, cores", "link", *figures)
    rows = [
        (
            full_name(cell.position),
            cell.arm,
            str(cell.repeat),
            "right" if cell.correct else "; ".join(troubles(cell)),
            "" if cell.foreign_cores is None else f"{cell.foreign_cores:.2f}",
            "" if cell.link is None else ", ".join(f"{k} {v:g}" for k, v in cell.link.items()),
            *(number(cell.figures[name]) if name in cell.figures else "" for name in figures),
        )
        for cell in run.cells
        if not cell.profiled
    ]
    return f"<details><summary>Every cell with every figure</summary>{table(header, rows)}</details>"


def _profiles(run: RunRecord) -> str:
    links = [
        f'<li><a href="{escape(file)}">{escape(cell.arm)}: {escape(full_name(cell.position))} '
        f"({escape(file.rpartition('.')[2])})</a></li>"
        for cell in run.cells
        for file in cell.profiles
    ]
    if not links:
        return ""
    return (
        "<h2>Profiles</h2><p>py-spy on each scheduler, in cells of their own. Flame graphs open in the "
        f"browser, the others in speedscope.</p><ul>{''.join(links)}</ul>"
    )
