"""Prints a report to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from async_scheduler.contention.questions import percent, seconds
from async_scheduler.contention.report import CATEGORIES, Pair, Report, Span

if TYPE_CHECKING:
    from collections.abc import Iterable

ANSWER_STYLES = {
    "objection right": "bold red",
    "objection wrong": "bold green",
    "mixed": "bold yellow",
    "not measured": "dim",
}
MAX_PAIRS = 15
MAX_STATEMENTS = 8
STATEMENT_WIDTH = 70


def show(report: Report, console: Console) -> None:
    """Print verdict, questions, matrix and times of *report*."""
    title = f"{report.title} · {report.seconds:.1f} s"
    console.print(Panel(Text("\n".join(report.verdict)), title=Text(title), title_align="left"))
    parts = (questions, arms, cells, matrix, walls, holds, skips, statements, failures, quality)
    for part in parts:
        if (made := part(report)) is not None:
            console.print(made)


def _table(title: str, *columns: str, numbers: int = 0) -> Table:
    """Return a table whose last *numbers* columns are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place >= len(columns) - numbers else "left")
    return table


def questions(report: Report) -> RenderableType:
    """Return the ten questions."""
    table = _table("Questions", "", "Question", "Figure", "The objection is")
    for asked in report.questions:
        answer = Text(asked.answer.replace("objection ", ""), style=ANSWER_STYLES[asked.answer])
        table.add_row(str(asked.number), Text(asked.title), Text(asked.figure), answer)
    return table


def arms(report: Report) -> RenderableType | None:
    """Return the arms side by side, None for a single trace."""
    if not report.arms:
        return None
    table = _table(
        "Arms",
        "Arm",
        "RTT ms",
        "Schedulers",
        "Runs",
        "Wall s",
        "CPU s",
        "Speed-up (95 %)",
        "Lock s/item",
        numbers=7,
    )
    for arm in report.arms:
        low_high = "–" if arm.speed_up is None else "{:.2f} ({:.2f}–{:.2f})".format(*arm.speed_up)
        table.add_row(
            arm.arm,
            f"{arm.rtt_ms:g}",
            str(arm.schedulers),
            str(arm.repeats),
            _middle(arm.wall_s),
            _middle(arm.cpu_s),
            low_high,
            "–" if arm.lock_s_per_item is None else f"{arm.lock_s_per_item:.5f}",
        )
    return table


def cells(report: Report) -> RenderableType | None:
    """Return what each traced run of an experiment says about locks, None for a single trace."""
    if not report.cells:
        return None
    columns = ("Waits", "Lock ms/task", "Lock share", "Attributed", "Unexplained", "Sampler/log")
    table = _table(
        "Locks, run by run", "Arm", "RTT", "Sched.", "Longest waits", *columns, numbers=len(columns)
    )
    for cell in report.cells:
        table.add_row(
            cell.arm,
            f"{cell.rtt_ms:g}",
            str(cell.schedulers),
            Text(cell.worst or "–"),
            str(cell.waits),
            f"{cell.lock_s_per_item * 1000:.3f}",
            *(percent(v) for v in (cell.lock_share, cell.attributed, cell.unexplained, cell.sampler_share)),
        )
    return table


def _middle(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.2f}" if ordered else "–"


def matrix(report: Report) -> RenderableType | None:
    """Return who waited for whom."""
    if not report.pairs and not report.victims:
        return None
    table = _table("Who waited for whom", "Waiter", "Holder", "On", "Waits", "Total", "p95", "Max", numbers=4)
    _add_pairs(table, report.pairs[:MAX_PAIRS])
    if len(report.pairs) > MAX_PAIRS:
        table.add_row(f"… {len(report.pairs) - MAX_PAIRS} more pairs")
    return table


def _add_pairs(table: Table, pairs: Iterable[Pair]) -> None:
    for pair in pairs:
        table.add_row(
            Text(pair.waiter),
            Text(pair.holder),
            Text(", ".join(list(pair.tables)[:2])),
            str(pair.count),
            seconds(pair.total_ns),
            seconds(pair.p95_ns),
            seconds(pair.max_ns),
        )


def walls(report: Report) -> RenderableType | None:
    """Return where the routines' wall time went, in percent."""
    if not report.routines:
        return None
    shown = [c for c in CATEGORIES if any(r.categories[c].high for r in report.routines)]
    table = _table(
        "Wall time of the routines, %", "Routine", "Passes", "Wall", *shown, numbers=len(shown) + 2
    )
    for routine in report.routines:
        table.add_row(
            Text(routine.routine),
            str(routine.passes),
            seconds(routine.wall_ns),
            *(_share(routine.categories[c], routine.wall_ns) for c in shown),
        )
    if all(routine.split for routine in report.routines):
        return table
    note = "  CPU and waiting for the loop are one figure at this level of tracing (steps tells them apart)"
    return Group(table, Text(note, style="dim"))


def _share(span: Span, wall: float) -> str:
    if not wall:
        return "–"
    low, high = 100 * span.low / wall, 100 * span.high / wall
    return f"{low:.1f}" if high - low < 0.1 else f"{low:.1f}–{high:.1f}"


def holds(report: Report) -> RenderableType | None:
    """Return how long locks were held and what happened meanwhile."""
    if not report.holds:
        return None
    columns = (
        "Transactions",
        "Median",
        "p95",
        "Total",
        "Executing",
        "Lock wait",
        "Commit",
        "Own CPU",
        "Loop busy",
    )
    table = _table("Locks held", "Routine", *columns, numbers=len(columns))
    for hold in report.holds:
        loop = "–" if hold.loop is None else f"≤ {seconds(hold.loop.high)}"
        table.add_row(
            Text(hold.routine),
            str(hold.transactions),
            seconds(hold.median_ns),
            seconds(hold.p95_ns),
            seconds(hold.total_ns),
            seconds(hold.executing_ns),
            seconds(hold.lock_wait_ns),
            seconds(hold.commit_ns),
            "–" if hold.own_cpu_ns is None else seconds(hold.own_cpu_ns),
            loop,
        )
    return table


def skips(report: Report) -> RenderableType | None:
    """Return rows passed over and locks refused."""
    counts = [c for c in report.skips if c.wanted or c.refused or c.skipped]
    if not counts:
        return None
    columns = ("Passes", "Asked for", "Got", "Passed over", "Refused")
    table = _table("Rows claimed, locks refused", "Routine", *columns, numbers=len(columns))
    for count in counts:
        skipped = "–" if count.skipped is None else str(count.skipped)
        table.add_row(
            Text(count.routine),
            str(count.passes),
            str(count.wanted),
            str(count.claimed),
            skipped,
            str(count.refused),
        )
    return table


def statements(report: Report) -> RenderableType | None:
    """Return the statements that waited longest, with those that held."""
    if not report.statements:
        return None
    table = _table("Statements by lock wait", "Waited", "Waits", "Statement", "Held by")
    for waited in report.statements[:MAX_STATEMENTS]:
        held = "–" if waited.held_by is None else f"{waited.holder}: {_cut(waited.held_by)}"
        table.add_row(seconds(waited.total_ns), str(waited.count), Text(_cut(waited.statement)), Text(held))
    return table


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= STATEMENT_WIDTH else flat[: STATEMENT_WIDTH - 1] + "…"


def failures(report: Report) -> RenderableType | None:
    """Return the deadlocks."""
    if not report.failures:
        return None
    table = _table("Deadlocks", "At", "Seen by", "Parties", "Victim")
    for failure in report.failures[:MAX_STATEMENTS]:
        parties = Text(" ⇄ ".join(failure.parties))
        table.add_row(f"{failure.at_s:.2f} s", failure.source, parties, Text(failure.victim or "–"))
    return table


def quality(report: Report) -> RenderableType:
    """Return how far the figures can be trusted."""
    found = report.quality
    facts = {
        "lock waits": f"{found.waits}, from: {found.source}",
        "both sides named": percent(found.attributed_share),
        "transactions": f"{found.transactions}, {found.transactions_attributed} of a known routine",
        "unexplained time": f"{percent(found.unexplained)} (level: {found.level})",
        "sampler against log": percent(found.sampler_share),
        "sampler's CPU, its backend's included": percent(found.sampler_total),
        "records lost": str(found.dropped),
        "files broken off": str(found.truncated),
    }
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items())
    return Panel(Text(lines), title="Data quality", title_align="left")
