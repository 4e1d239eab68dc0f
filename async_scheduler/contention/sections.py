"""The sections of a page: what a report says, as HTML."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import msgspec

from async_scheduler.contention import charts
from async_scheduler.contention.markup import (
    cost,
    folded,
    milliseconds,
    or_dash,
    pair_cells,
    part,
    span,
    spread,
    table,
)
from async_scheduler.contention.questions import percent, seconds
from async_scheduler.contention.report import CATEGORIES

if TYPE_CHECKING:
    from async_scheduler.contention.report import Report

STYLES = {"objection right": "right", "objection wrong": "wrong", "mixed": "mixed", "not measured": "not"}
NOT_SPLIT = "At this level of tracing CPU and waiting for the event loop are one figure, shown as cpu."


class Body:
    """One report on the page; *prefix* makes its anchors its own."""

    def __init__(self, report: Report, prefix: str) -> None:
        self._report = report
        self._prefix = prefix

    def html(self) -> str:
        """Return the report as HTML."""
        return f"<h1>{escape(self._report.title)}</h1>{''.join(self._sections())}"

    def _sections(self) -> list[str]:
        return [
            self._verdict(),
            self._questions(),
            self._arms(),
            self._cells(),
            self._matrix(),
            self._walls(),
            self._holds(),
            self._skips(),
            self._statements(),
            self._failures(),
            self._quality(),
        ]

    def _verdict(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._report.labels.items())
        lines = "".join(f"<p>{escape(line)}</p>" for line in self._report.verdict)
        small = f"<small>{self._report.seconds:.1f} s measured{'; ' + escape(facts) if facts else ''}</small>"
        return f'<section id="{self._prefix}verdict" class="verdict">{lines}{small}</section>'

    def _section(self, anchor: str, title: str, *parts: str) -> str:
        return f'<section id="{self._prefix}{anchor}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'

    def _figure(self, name: str, figure: charts.Figure | None) -> str:
        if figure is None:
            return ""
        data = msgspec.json.encode(figure).decode().replace("</", "<\\/")
        return (
            f'<script type="application/json" id="{self._prefix}data-{name}">{data}</script>'
            f'<div class="chart" data-figure="{self._prefix}data-{name}"></div>'
        )

    def _questions(self) -> str:
        rows = "".join(
            f"<tr><td>{q.number}</td><td>{escape(q.title)}</td><td><b>{escape(q.figure)}</b><br>"
            f"<small>{escape(q.detail)}</small></td><td>{escape(q.proves_right_if)}</td>"
            f'<td class="{STYLES[q.answer]}">{escape(q.answer)}</td></tr>'
            for q in self._report.questions
        )
        columns = ("", "Question", "Figure", "The objection is right if", "Answer")
        head = f"<tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>"
        return self._section(
            "questions", "The questions", f'<div class="scroll"><table>{head}{rows}</table></div>'
        )

    def _arms(self) -> str:
        if not self._report.arms:
            return ""
        rows = [
            (
                arm.arm,
                f"{arm.rtt_ms:g}",
                str(arm.schedulers),
                str(arm.repeats),
                spread(arm.wall_s),
                spread(arm.cpu_s),
                "–" if arm.speed_up is None else "{:.2f} ({:.2f}–{:.2f})".format(*arm.speed_up),
                "–" if arm.lock_s_per_item is None else f"{arm.lock_s_per_item * 1000:.3f} ms",
                percent(arm.lock_share),
                "–" if arm.hold_median_ns is None else seconds(arm.hold_median_ns),
                "–" if arm.failures_per_10k is None else f"{arm.failures_per_10k:.2f}",
            )
            for arm in self._report.arms
        ]
        header = ("Arm", "RTT ms", "Schedulers", "Runs", "Wall s", "CPU s", "Speed-up (95 %)")
        more = ("Lock wait per task", "Lock share", "Median hold", "Deadlocks per 10,000")
        return self._section(
            "arms",
            "The same work in every arm",
            self._figure("arms", charts.arms(self._report)),
            table((*header, *more), rows, numbers=10),
        )

    def _cells(self) -> str:
        if not self._report.cells:
            return ""
        rows = [
            (
                cell.arm,
                f"{cell.rtt_ms:g}",
                str(cell.schedulers),
                cell.worst or "–",
                str(cell.waits),
                f"{cell.database_s_per_item * 1000:.3f} ms",
                f"{cell.lock_s_per_item * 1000:.3f} ms",
                percent(cell.lock_share),
                "–"
                if cell.loop_share is None
                else f"{percent(cell.loop_share[0])} – {percent(cell.loop_share[1])}",
                str(cell.refused),
                percent(cell.attributed),
                percent(cell.unexplained),
                percent(cell.sampler_share),
            )
            for cell in self._report.cells
        ]
        header = ("Arm", "RTT ms", "Schedulers", "Longest waits", "Waits", "Database locks per task")
        more = (
            "All locks per task",
            "Lock share",
            "Loop wait",
            "Refused",
            "Attributed",
            "Unexplained",
            "Sampler / log",
        )
        return self._section("cells", "Locks, run by run", table((*header, *more), rows, numbers=9))

    def _matrix(self) -> str:
        rows = [pair_cells(pair) for pair in self._report.pairs]
        victims = [pair_cells(pair) for pair in self._report.victims]
        header = ("Waiter", "Root holder", "Layer", "On", "Waits", "Total", "p95", "Longest")
        parts = [self._figure("matrix", charts.matrix(self._report)) or "<p>Nobody waited for anybody.</p>"]
        if rows:
            parts.append(folded("All pairs, with tables", table(header, rows, numbers=4)))
        if victims:
            parts.append("<p>Other processes that waited for our routines:</p>")
            parts.append(table(header, victims, numbers=4))
        return self._section("matrix", "Who waited for whom", *parts)

    def _walls(self) -> str:
        if not self._report.routines:
            return self._section("walls", "Where the routines' time went", "<p>No pass ended.</p>")
        rows = [
            (r.routine, str(r.passes), seconds(r.wall_ns), *(span(r.categories[c]) for c in CATEGORIES))
            for r in self._report.routines
        ]
        header = ("Routine", "Passes", "Wall", *CATEGORIES)
        note = "" if all(r.split for r in self._report.routines) else f"<p><small>{NOT_SPLIT}</small></p>"
        return self._section(
            "walls",
            "Where the routines' time went",
            self._figure("walls", charts.walls(self._report)),
            note,
            folded("Figures", table(header, rows, numbers=len(header) - 1)),
        )

    def _holds(self) -> str:
        if not self._report.holds:
            return self._section("holds", "Locks held", "<p>No transaction took a lock.</p>")
        rows = [
            (
                h.routine,
                str(h.transactions),
                *(seconds(ns) for ns in (h.median_ns, h.p95_ns, h.total_ns, h.executing_ns, h.lock_wait_ns)),
                seconds(h.commit_ns),
                "–" if h.own_cpu_ns is None else seconds(h.own_cpu_ns),
                "–" if h.loop is None else f"≤ {seconds(h.loop.high)}",
            )
            for h in self._report.holds
        ]
        header = ("Routine", "Transactions", "Median", "p95", "Total", "Executing", "Lock wait", "Commit")
        return self._section(
            "holds",
            "What happened while locks were held",
            self._figure("holds", charts.holds(self._report)),
            folded("Figures", table((*header, "Own CPU", "Loop busy with others"), rows, numbers=9)),
        )

    def _skips(self) -> str:
        rows = [
            (
                c.routine,
                str(c.passes),
                str(c.wanted),
                str(c.claimed),
                "–" if c.skipped is None else str(c.skipped),
                str(c.refused),
            )
            for c in self._report.skips
        ]
        header = ("Routine", "Passes", "Rows asked for", "Got", "Passed over", "Locks refused")
        return self._section(
            "skips",
            "Rows passed over and locks refused",
            self._figure("skips", charts.skips(self._report)),
            table(header, rows, numbers=5),
        )

    def _statements(self) -> str:
        if not self._report.statements:
            return self._section("statements", "Statements that waited", "<p>None waited for a lock.</p>")
        rows = "".join(
            f'<tr><td class="number">{seconds(s.total_ns)}</td><td class="number">{s.count}</td>'
            f"<td>{escape(s.table or '?')}</td><td><code>{escape(s.statement)}</code><br>"
            f"<small>{escape(', '.join(s.waiters))}</small></td>"
            f"<td><code>{escape(s.held_by or '–')}</code><br><small>{escape(s.holder)}</small></td></tr>"
            for s in self._report.statements
        )
        columns = ("Waited", "Waits", "Table", "Statement", "Lock taken by")
        head = f"<tr>{''.join(f'<th>{column}</th>' for column in columns)}</tr>"
        return self._section(
            "statements", "Statements that waited", f'<div class="scroll"><table>{head}{rows}</table></div>'
        )

    def _failures(self) -> str:
        if not self._report.failures:
            return self._section("failures", "Deadlocks", "<p>None.</p>")
        parts = [
            folded(
                f"{f.at_s:.2f} s: {' ⇄ '.join(f.parties)} ({f.source}, cancelled: {f.victim or 'none'})",
                "".join(f"<p><code>{escape(detail)}</code></p>" for detail in f.details),
            )
            for f in self._report.failures
        ]
        return self._section("failures", "Deadlocks", *parts)

    def _quality(self) -> str:
        found = self._report.quality
        facts = {
            "Lock waits come from": found.source,
            "Lock waits": str(found.waits),
            "Both sides named": percent(found.attributed_share),
            "Transactions of a known routine": f"{found.transactions_attributed} of {found.transactions}",
            "Unexplained routine time": percent(found.unexplained),
            "Sampler's total against the log's": percent(found.sampler_share),
            "Records lost": str(found.dropped),
            "Files broken off": str(found.truncated),
            "Server clock minus ours": milliseconds(found.clock_offset_ns),
            "CPU of the traced process": or_dash(found.client_cpu_ns),
            "of which writing the trace": part(found.writer_cpu_ns, found.client_cpu_ns),
            "Cost of tracing, traced against untraced runs": cost(found.overhead),
            "CPU of the sampler process": percent(found.sampler_cpu_share),
            "CPU of the sampler's database backend": percent(found.sampler_backend_cpu_share),
            "Level of tracing": found.level,
        }
        return self._section("quality", "How far this can be trusted", table(("", ""), facts.items()))
