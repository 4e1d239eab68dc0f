"""The texts and tables that a page is made of; every name is escaped."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from async_scheduler.contention.questions import percent, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from async_scheduler.contention.report import Pair, Span


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0) -> str:
    """Return a table of plain texts, its last *numbers* columns aligned to the right."""
    first = len(header) - numbers

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if place >= first else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line("th", header)}</tr>{body}</table></div>'


def folded(title: str, content: str) -> str:
    """Return *content* behind a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def spread(values: Sequence[float]) -> str:
    """Return the median of *values*, their lowest and highest."""
    ordered = sorted(values)
    if not ordered:
        return "–"
    return f"{ordered[len(ordered) // 2]:.2f} ({ordered[0]:.2f}–{ordered[-1]:.2f})"


def pair_cells(pair: Pair) -> tuple[str, ...]:
    """Return the cells of one pair's row."""
    tables = ", ".join(f"{name} {seconds(ns)}" for name, ns in pair.tables.items())
    figures = (str(pair.count), seconds(pair.total_ns), seconds(pair.p95_ns), seconds(pair.max_ns))
    return pair.waiter, pair.holder, pair.layer, tables, *figures


def span(span: Span) -> str:
    """Return a length that is known within limits."""
    if span.high - span.low < 1e6:
        return seconds(span.middle)
    return f"{seconds(span.low)} – {seconds(span.high)}"


def cost(overhead: tuple[float, float, float] | None) -> str:
    """Return the cost of tracing with its interval."""
    if overhead is None:
        return "– (needs pairs of runs: poc-bench contention)"
    return "{:+.1f} % CPU ({:+.1f} to {:+.1f})".format(*(100 * (value - 1) for value in overhead))


def part(ns: int | None, whole: int | None) -> str:
    """Return a part of a length of time, with its share."""
    return or_dash(ns) if ns is None or not whole else f"{seconds(ns)} ({percent(ns / whole)})"


def or_dash(ns: int | None) -> str:
    """Return a length of time, a dash for an unknown one."""
    return "–" if ns is None else seconds(ns)


def milliseconds(ns: int | None) -> str:
    """Return *ns* in milliseconds, a dash for None."""
    return "–" if ns is None else f"{ns / 1e6:.2f} ms"
